-- Looks a session up, with all that is in it, and counts that as activity.
-- KEYS[1] its hash; named with its grave, so that a slot that moves is refused
-- ARGV[1] its id
-- ARGV[2] the digest of the secret, empty for who needs none
-- ARGV[3] the throttle in ms; -1 to count it as no activity
-- Answer: {1, …, wrapped secret that replaces the caller's, or empty}: see `told`; or as
--         `refusal` says
-- Safe to run twice: activity in the same throttle is written once.
local base, id = string.sub(KEYS[1], 1, -#ARGV[1] - 3), ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local code, s = standing(base, id, ARGV[2], now)
if code ~= 1 then
  return refusal(base, id, code, s, now)
end
local wrapped = s.grace == 1 and redis.call('GET', base .. 'w:' .. id) or ''
local throttle = tonumber(ARGV[3])
local last, expiry = s.last, s.expiry
if throttle >= 0 and touch(base, s, now, throttle) then
  local written = redis.pcall('HSET', KEYS[1], 'm', moved(s))
  if type(written) == 'number' then
    index(base, id, s, now)
  elseif string.find(written.err, 'OOM', 1, true) then
    -- Nobody is logged out for want of memory: what was read is told, as it stands.
    s.last, s.expiry = last, expiry
  else
    redis.call('HSET', KEYS[1], 'm', moved(s))
  end
end
local answer = told(base, id, s, now, {1})
answer[#answer + 1] = wrapped
return answer
