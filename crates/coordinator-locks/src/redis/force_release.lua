-- Takes a lock away from the holder that was seen with a fence, and hands the turn on.
-- KEYS[1] the lock
-- KEYS[2] the shard's index of held locks; its name without `held` begins the tombstone's
-- KEYS[3] the queue
-- KEYS[4] the records of who stands in the queue
-- KEYS[5] the shard's heartbeats
-- ARGV[1] the ttl of the tombstone in ms
-- ARGV[2] the lock's member in the index
-- ARGV[3] the reason, kept in the tombstone
-- ARGV[4] the fence of the holder to dispossess
-- Answer: {1} taken away; {0} that holder held it no more.
-- Safe to run twice: a later holder has another fence and is left alone.
local lock = redis.call('GET', KEYS[1])
if not lock or tonumber(string.sub(lock, 33, 48)) ~= tonumber(ARGV[4]) then
  return {0}
end
local time = redis.call('TIME')
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1])
local tombstone = string.sub(KEYS[2], 1, -5) .. 'gone:' .. string.sub(lock, 1, 32)
redis.call('SET', tombstone, 'f' .. ARGV[3], 'PX', ARGV[1])
if redis.call('ZCARD', KEYS[3]) > 0 then
  turn(KEYS[3], KEYS[4], KEYS[5], 'none', 'none', time[1] * 1000000 + time[2])
end
return {1}
