-- The sliding window that most people write: an entry per admission, its score and its name the
-- time. A cost of 1 only, and no word of when there is room.
-- KEYS[1] the set
-- ARGV[1] the limit
-- ARGV[2] the window in µs
local time = redis.call('TIME')
local now, window = time[1] * 1000000 + time[2], tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now - window)
local used = redis.call('ZCARD', KEYS[1])
if used >= tonumber(ARGV[1]) then
  return {0, used}
end
redis.call('ZADD', KEYS[1], now, now)
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
return {1, used + 1}
