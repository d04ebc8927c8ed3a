-- Counts the sessions of indexes: those that live, and those whose time is over and that are still
-- there.
-- KEYS[1..] the indexes
-- Answer: {living, over, ms since the first of these was due}
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local living, over, late = 0, 0, 0
for i = 1, #KEYS do
  living = living + redis.call('ZCOUNT', KEYS[i], '(' .. now, '+inf')
  local due = redis.call('ZCOUNT', KEYS[i], '-inf', now)
  over = over + due
  if due > 0 then
    local first = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')[2]
    late = math.max(late, now - first)
  end
end
return {living, over, late}
