-- Stores what was loaded, if the lease is still the token's, and ends the lease.
-- KEYS[1] ears
-- KEYS[2] the value
-- KEYS[3] the lease
-- ARGV[1] a byte 1 and the token
-- ARGV[2] an envelope
-- ARGV[3] ttl in ms
-- Answer: {1, now} it is stored; {0, now} the lease was not the token's any more
-- Safe to run twice: the second finds the version that it was to store.
local now = clock()
if text(KEYS[3]) ~= ARGV[1] then
  local offered = version_of(ARGV[2])
  local there = is_text(KEYS[2]) and version_of(redis.call('GETRANGE', KEYS[2], 0, HEAD - 1))
  return {there and there == offered and 1 or 0, now}
end
-- Whatever else stands there is written over.
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[3])
tell(KEYS[1], {KEYS[2], KEYS[3]})
return {1, now}
