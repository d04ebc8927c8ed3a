-- Says who holds a lock.
-- KEYS[1] the lock
-- ARGV[1] the channel that waiters listen to
-- Answer: {1, pttl, fence, since, waiting processes, holder}; {0} nobody.
-- Safe to run twice: it changes nothing.
local lock = redis.call('GET', KEYS[1])
if not lock then
  return {0}
end
local counted = redis.pcall('PUBSUB', 'SHARDNUMSUB', ARGV[1])
if counted.err then
  counted = redis.pcall('PUBSUB', 'NUMSUB', ARGV[1])
end
return {
  1,
  redis.call('PTTL', KEYS[1]),
  tonumber(string.sub(lock, 33, 48)),
  tonumber(string.sub(lock, 49, 64)),
  tonumber(counted[2]) or 0,
  string.sub(lock, 65),
}
