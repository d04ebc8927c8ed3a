-- Says who holds a lock.
-- KEYS[1] the lock
-- KEYS[2] its queue
-- Answer: {1, pttl, fence, since, waiters, holder}; {0} nobody.
-- Safe to run twice: it changes nothing.
local lock = redis.call('GET', KEYS[1])
if not lock then
  return {0}
end
return {
  1,
  redis.call('PTTL', KEYS[1]),
  tonumber(string.sub(lock, 33, 48)),
  tonumber(string.sub(lock, 49, 64)),
  redis.call('ZCARD', KEYS[2]),
  string.sub(lock, 65),
}
