-- The second of limitador's two steps on Redis: counts, whatever happened since the first.
-- KEYS[1] the counter
-- KEYS[2] the limit's counters
-- ARGV[1] the window in s
local used = redis.call('INCRBY', KEYS[1], 1)
if used == 1 then
  redis.call('EXPIRE', KEYS[1], ARGV[1], 'NX')
  redis.call('SADD', KEYS[2], KEYS[1])
end
return {used}
