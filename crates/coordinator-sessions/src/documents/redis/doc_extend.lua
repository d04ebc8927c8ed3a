-- Lets a document live at least so long from now on.
-- KEYS[1] the document
-- KEYS[2] the names of the namespace in this shard
-- KEYS[3] the same by their end
-- KEYS[4] the former values
-- ARGV[1] ttl in ms
-- ARGV[2] the encoded name
-- Answer: {1, end in ms}; {0} there is none
-- Safe to run twice: it only prolongs, and no version changes.
local length = redis.call('HLEN', KEYS[1])
local indexed = redis.call('ZSCORE', KEYS[3], ARGV[2])
redis.call('ZSCORE', KEYS[2], ARGV[2])
local kept = redis.call('LLEN', KEYS[4])
if length == 0 then
  return {0}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = tonumber(indexed) or now + redis.call('PTTL', KEYS[1])
local ends = math.max(now + tonumber(ARGV[1]), before)
local at = string.format('%.0f', ends)
redis.call('ZADD', KEYS[3], at, ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[2])
redis.call('PEXPIREAT', KEYS[1], at)
if kept > 0 then
  redis.call('PEXPIREAT', KEYS[4], at)
end
local longest = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', longest))
redis.call('PEXPIREAT', KEYS[3], string.format('%.0f', longest))
return {1, ends}
