-- GCRA as it is commonly written: a string with the theoretical arrival time in µs.
-- KEYS[1] the string
-- ARGV[1] the burst
-- ARGV[2] for how many µs one unit stands
local time = redis.call('TIME')
local now, unit = time[1] * 1000000 + time[2], tonumber(ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local allowed = arrival + unit - ARGV[1] * unit
if allowed > now then
  return {0, math.ceil(allowed - now)}
end
arrival = arrival + unit
redis.call('SET', KEYS[1], arrival, 'PX', math.ceil((arrival - now) / 1000))
return {1, 0}
