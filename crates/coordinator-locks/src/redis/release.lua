-- Gives a lock up and hands the turn on, or steps out of the queue; also cleans up after an acquire
-- of unknown outcome.
-- KEYS[1] the lock
-- KEYS[2] the tombstone of the token
-- KEYS[3] the shard's index of held locks
-- KEYS[4] the shard's last fence
-- KEYS[5] the queue
-- KEYS[6] the records of who stands in the queue
-- KEYS[7] the shard's heartbeats
-- ARGV[1] the token
-- ARGV[2] the ttl of the tombstone in ms
-- ARGV[3] the lock's member in the index
-- ARGV[4] the client; if it is the turn of one of its waiters, that one is granted the lock
-- ARGV[5] the lowest fence that the client accepts
-- Answer: {1, 0} released, now or by an earlier run; {1, fence, token} released now and granted to
--         that waiter of the client; {0, 0} the lock was gone or is another's.
-- Safe to run twice: the tombstone remembers the answer, and only a lock that bears the token is
-- deleted. Whoever was granted the lock by an answer that got lost obtains it by its own acquire.
local lock = redis.call('GET', KEYS[1])
local mine = lock and string.sub(lock, 1, 32) == ARGV[1]
local passes
if mine then
  redis.call('ZREM', KEYS[3], ARGV[3])
  redis.call('DEL', KEYS[1])
  -- Full memory refuses no write that follows another: the deletion lets this one pass.
  redis.call('SET', KEYS[2], 'r', 'PX', ARGV[2])
  passes = redis.call('EXISTS', KEYS[5]) == 1
else
  -- It may have been its turn.
  passes = leave(KEYS[5], KEYS[6], ARGV[1]) and not lock
end
if passes then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local first = turn(KEYS[5], KEYS[6], KEYS[7], 'none', mine and ARGV[4] or 'none', now)
  local record = first and redis.call('HGET', KEYS[6], first)
  if mine and record and string.sub(record, 1, 16) == ARGV[4] then
    leave(KEYS[5], KEYS[6], first)
    local ttl, least = tonumber(string.sub(record, 33, 48)), tonumber(ARGV[5])
    local holder = string.sub(record, 53)
    local fence = grant(KEYS[1], KEYS[4], KEYS[3], ARGV[3], first, ttl, least, holder, now)
    return {1, fence, first}
  end
end
if mine then
  return {1, 0}
end
local grave = redis.call('GET', KEYS[2])
if grave == 'r' then
  return {1, 0}
end
if not grave then
  -- An acquire with this token may still be on its way: it shall find the tombstone. Refused when
  -- memory is full, but then so is the acquire.
  redis.pcall('SET', KEYS[2], 'x', 'PX', ARGV[2])
end
return {0, 0}
