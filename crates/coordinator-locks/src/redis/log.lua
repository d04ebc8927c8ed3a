-- Appends to the log of what happened to locks.
-- KEYS[1] the log
-- ARGV[1] its ttl in ms
-- ARGV[2] how many entries it keeps, about
-- ARGV[n] then for each entry its id, its age in µs and what it says
-- Answer: {1}.
-- Safe to run twice: whoever reads tells entries of one id once.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for i = 3, #ARGV, 3 do
  local at = string.format('%.0f', math.max(now - tonumber(ARGV[i + 1]), 0))
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 't', at, 'i', ARGV[i], 'e', ARGV[i + 2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {1}
