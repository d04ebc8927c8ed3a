-- Writes a document if its condition holds: value, version, end, history and place in the index.
-- KEYS[1] the document
-- KEYS[2] the names of the namespace in this shard
-- KEYS[3] the same by their end
-- KEYS[4] the former values
-- KEYS[5] the last version of the shard
-- KEYS[6] the mark of this write
-- ARGV[1] the version that must be there; 0: none at all, -1: whatever there is
-- ARGV[2] ttl in ms
-- ARGV[3] 1: a document that is there keeps its end
-- ARGV[4] how many former values are kept
-- ARGV[5] the encoded name
-- ARGV[6] the value
-- ARGV[7] for how many ms the mark is remembered
-- ARGV[8] for how many ms the last version of the shard is
-- ARGV[9] how many names that have ended to take out of the index
-- Answer: {1, version, updated in µs, end in ms} written; {0, version} another version is there,
--         0 for none; {2} what is there cannot be read
-- Safe to run twice: the mark tells the first answer, and nothing is written. A conflict has
--         written nothing, and is decided anew.
local mark = redis.call('GET', KEYS[6])
if mark then
  return {1, tonumber(string.sub(mark, 1, 16)), tonumber(string.sub(mark, 17, 32)),
    tonumber(string.sub(mark, 33, 48))}
end
local head = redis.call('HGET', KEYS[1], 'head')
local current = 0
if head then
  current = #head == 32 and tonumber(string.sub(head, 1, 16))
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  current = nil
end
if not current then
  return {2}
end
local expected = tonumber(ARGV[1])
if expected >= 0 and expected ~= current then
  return {0, current}
end

local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local last = tonumber(redis.call('GET', KEYS[5]) or 0)
local version = math.max(us, last + 1, current + 1)
local ends = now + tonumber(ARGV[2])
local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('(%.0f', now),
  'LIMIT', 0, ARGV[9])
local indexed = redis.call('ZSCORE', KEYS[3], ARGV[5])
if head and indexed and ARGV[3] == '1' then
  -- An end that is now would delete it at once.
  ends = math.max(tonumber(indexed), now + 1)
end
redis.call('ZSCORE', KEYS[2], ARGV[5])
local depth, kept = tonumber(ARGV[4]), redis.call('LLEN', KEYS[4])
local past = depth > 0 and head and redis.call('HGET', KEYS[1], 'data')

local at = string.format('%.0f', ends)
local stamp = string.format('%016.0f%016.0f', version, us)
redis.call('HSET', KEYS[1], 'head', stamp, 'data', ARGV[6])
redis.call('PEXPIREAT', KEYS[1], at)
if past then
  redis.call('LPUSH', KEYS[4], head .. past)
end
if depth == 0 and kept > 0 then
  redis.call('DEL', KEYS[4])
elseif past or kept > 0 then
  redis.call('LTRIM', KEYS[4], 0, depth - 1)
  redis.call('PEXPIREAT', KEYS[4], at)
end
if #ended > 0 then
  redis.call('ZREM', KEYS[2], unpack(ended))
  redis.call('ZREM', KEYS[3], unpack(ended))
end
redis.call('ZADD', KEYS[2], 0, ARGV[5])
redis.call('ZADD', KEYS[3], at, ARGV[5])
local longest = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', longest))
redis.call('PEXPIREAT', KEYS[3], string.format('%.0f', longest))
redis.call('SET', KEYS[5], string.format('%.0f', version), 'PX', ARGV[8])
redis.call('SET', KEYS[6], stamp .. string.format('%016.0f', ends), 'PX', ARGV[7])
return {1, version, us, ends}
