-- Takes a lock away from the holder that was seen with a fence.
-- KEYS[1] the lock
-- KEYS[2] the shard's index of held locks; its name without `held` begins the tombstone's
-- ARGV[1] the ttl of the tombstone in ms
-- ARGV[2] the lock's member in the index
-- ARGV[3] the channel that waiters listen to
-- ARGV[4] the reason, kept in the tombstone
-- ARGV[5] the fence of the holder to dispossess
-- Answer: {1} taken away; {0} that holder held it no more.
-- Safe to run twice: a later holder has another fence and is left alone.
local lock = redis.call('GET', KEYS[1])
if not lock or tonumber(string.sub(lock, 33, 48)) ~= tonumber(ARGV[5]) then
  return {0}
end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1])
local tombstone = string.sub(KEYS[2], 1, -5) .. 'gone:' .. string.sub(lock, 1, 32)
redis.call('SET', tombstone, 'f' .. ARGV[4], 'PX', ARGV[1])
local sent = redis.pcall('SPUBLISH', ARGV[3], ARGV[5])
if type(sent) == 'table' then
  redis.pcall('PUBLISH', ARGV[3], ARGV[5])
end
return {1}
