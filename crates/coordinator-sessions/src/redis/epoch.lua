-- Tells the epoch of a user or a company in a shard, or raises it: every session that was created
-- before is revoked.
-- KEYS[1] the epoch
-- ARGV[1] 0 to look; -1 to raise it; otherwise what it is at least from now on
-- ARGV[2] why
-- ARGV[3] for how long it is kept in ms: longer than any session lives
-- Answer: {epoch}
-- Safe to run twice: what is raised twice revokes the same sessions, and those created in between.
local value = redis.call('GET', KEYS[1])
local number = tonumber(string.match(value or '0 ', '^(%d+) '))
if not number then
  -- No epoch is as good as one of a wrong type.
  redis.call('LLEN', KEYS[1])
end
local least = tonumber(ARGV[1])
if least == 0 or least > 0 and least <= number then
  return {number}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
number = least > 0 and least or math.max(number + 1, now)
redis.call('SET', KEYS[1], string.format('%.0f ', number) .. ARGV[2], 'PX', ARGV[3])
return {number}
