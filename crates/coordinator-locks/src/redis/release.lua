-- Gives a lock up and wakes who waits for it; also cleans up after an acquire of unknown outcome.
-- KEYS[1] the lock
-- KEYS[2] the tombstone of the token
-- KEYS[3] the shard's index of held locks
-- ARGV[1] the token
-- ARGV[2] the shortest ttl of the tombstone in ms
-- ARGV[3] the lock's member in the index
-- ARGV[4] the channel that waiters listen to
-- Answer: {1, woken} released now, with how many listeners heard of it; {1, 0} released by an
--         earlier run; {0, 0} the lock was gone or is another's.
-- Safe to run twice: the tombstone remembers the answer, and only a lock that bears the token is
-- deleted.
local lock = redis.call('GET', KEYS[1])
local grave = redis.call('GET', KEYS[2])
if lock and string.sub(lock, 1, 32) == ARGV[1] then
  -- For as long as an acquire with this token could have lasted.
  local grave_ms = math.max(tonumber(ARGV[2]), redis.call('PTTL', KEYS[1]))
  redis.call('ZREM', KEYS[3], ARGV[3])
  redis.call('DEL', KEYS[1])
  -- Full memory refuses no write that follows another: the deletion lets this one pass.
  redis.call('SET', KEYS[2], 'r', 'PX', grave_ms)
  local fence = string.format('%.0f', tonumber(string.sub(lock, 33, 48)))
  local sent = redis.pcall('SPUBLISH', ARGV[4], fence)
  if type(sent) == 'table' then
    -- Servers before 7.0 have no sharded channels.
    sent = redis.pcall('PUBLISH', ARGV[4], fence)
  end
  return {1, tonumber(sent) or 0}
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
