-- Gives a lock up and hands the turn on, or steps out of the queue; also cleans up after an acquire
-- of unknown outcome.
-- KEYS[1] the lock
-- KEYS[2] the tombstone of the token
-- KEYS[3] the shard's index of held locks
-- KEYS[4] the fence
-- KEYS[5] the queue
-- KEYS[6] the records of who stands in the queue
-- KEYS[7] the shard's heartbeats
-- ARGV[1] the token
-- ARGV[2] the shortest ttl of the tombstone in ms
-- ARGV[3] the lock's member in the index
-- ARGV[4] the client; if it is the turn of one of its waiters, that one is granted the lock
-- ARGV[5] the lowest fence that the client accepts
-- Answer: {1, 0} released, now or by an earlier run; {1, fence, token} released now and granted to
--         that waiter of the client; {0, 0} the lock was gone or is another's.
-- Safe to run twice: the tombstone remembers the answer, and only a lock that bears the token is
-- deleted. Whoever was granted the lock by an answer that got lost obtains it by its own acquire.
local lock = redis.call('GET', KEYS[1])
local grave = redis.call('GET', KEYS[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if lock and string.sub(lock, 1, 32) == ARGV[1] then
  -- For as long as an acquire with this token could have lasted.
  local grave_ms = math.max(tonumber(ARGV[2]), redis.call('PTTL', KEYS[1]))
  redis.call('ZREM', KEYS[3], ARGV[3])
  redis.call('DEL', KEYS[1])
  -- Full memory refuses no write that follows another: the deletion lets this one pass.
  redis.call('SET', KEYS[2], 'r', 'PX', grave_ms)
  if redis.call('ZCARD', KEYS[5]) == 0 then
    return {1, 0}
  end
  local first = turn(KEYS[5], KEYS[6], KEYS[7], 'none', ARGV[4], now)
  local record = first and redis.call('HGET', KEYS[6], first)
  if not record or string.sub(record, 1, 16) ~= ARGV[4] then
    return {1, 0}
  end
  leave(KEYS[5], KEYS[6], first)
  local ttl, fence_ttl = tonumber(string.sub(record, 33, 48)), tonumber(string.sub(record, 49, 64))
  local least, holder = tonumber(ARGV[5]), string.sub(record, 69)
  return {
    1,
    grant(KEYS[1], KEYS[4], KEYS[3], ARGV[3], first, ttl, fence_ttl, least, holder, now),
    first,
  }
end
if leave(KEYS[5], KEYS[6], ARGV[1]) and not lock then
  -- It may have been its turn.
  turn(KEYS[5], KEYS[6], KEYS[7], 'none', 'none', now)
end
if grave == 'r' then
  return {1, 0}
end
if not grave then
  -- An acquire with this token may still be on its way: it shall find the tombstone. Refused when
  -- memory is full, but then so is the acquire.
  redis.pcall('SET', KEYS[2], 'x', 'PX', ARGV[2])
end
return {0, 0}
