-- Takes a lock, or says who holds it.
-- KEYS[1] the lock: token (32 bytes), fence (16 digits), since in µs (16 digits), holder
-- KEYS[2] the fence, which outlives the lock
-- KEYS[3] the tombstone of the token
-- KEYS[4] the shard's index of held locks by expiry in ms
-- ARGV[1] the token
-- ARGV[2] the ttl in ms
-- ARGV[3] the lowest fence that the caller accepts
-- ARGV[4] the ttl of the fence in ms
-- ARGV[5] the lock's member in the index
-- ARGV[6] the holder, opaque here
-- Answer: {1, fence} granted; {0, pttl, fence, since, holder} held by another;
--         {2} the token was given up before and is refused.
-- Safe to run twice: the same token obtains its own lock again and keeps its fence, and a token
-- with a tombstone obtains nothing, however late it arrives.
local ttl = tonumber(ARGV[2])
if redis.call('EXISTS', KEYS[3]) == 1 then
  return {2}
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lock = redis.call('GET', KEYS[1])
local fence
if lock then
  fence = tonumber(string.sub(lock, 33, 48))
  local left = redis.call('PTTL', KEYS[1])
  if string.sub(lock, 1, 32) ~= ARGV[1] then
    return {0, left, fence, tonumber(string.sub(lock, 49, 64)), string.sub(lock, 65)}
  end
  -- The answer to an earlier run was lost.
  ttl = math.max(left, ttl)
  redis.call('PEXPIRE', KEYS[1], ttl)
  redis.call('ZADD', KEYS[4], string.format('%.0f', now / 1000 + ttl), ARGV[5])
else
  local last = tonumber(redis.call('GET', KEYS[2]) or '0')
  fence = math.max(last + 1, now, tonumber(ARGV[3]))
  local stamp = string.format('%016.0f%016.0f', fence, now)
  -- The first write: it meets an index of a wrong type, and a memory that is full, while nothing
  -- has changed yet.
  redis.call('ZADD', KEYS[4], string.format('%.0f', now / 1000 + ttl), ARGV[5])
  redis.call('SET', KEYS[1], ARGV[1] .. stamp .. ARGV[6], 'PX', ttl)
  redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[4])
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', string.format('%.0f', now / 1000))
end
return {1, fence}
