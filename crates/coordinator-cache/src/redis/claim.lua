-- Asks for a key to load, unless there is another value than the one that was seen.
-- KEYS[1] the value
-- KEYS[2] the lease
-- ARGV[1] a byte 1 and the token
-- ARGV[2] the version that was seen, or empty
-- ARGV[3] for how long the lease is, in ms
-- Answer: {1, now} it is the token's; {2, now, value}; {3, now, ms left} another has the lease
-- What is of another type is no value and no lease, and the latter is written over.
-- Safe to run twice: the token finds its own lease, which lasts from the second on.
local now = clock()
local value = text(KEYS[1])
local version = version_of(value)
if version and version ~= ARGV[2] then
  return {2, now, value}
end
local lease = text(KEYS[2])
if lease and lease ~= ARGV[1] then
  local left = redis.call('PTTL', KEYS[2])
  -- One that never ends is not of our making.
  if left >= 0 then
    return {3, now, left}
  end
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return {1, now}
