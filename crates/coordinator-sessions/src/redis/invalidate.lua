-- Ends a session, for good.
-- KEYS[1] its hash; named with its grave, so that a slot that moves is refused
-- ARGV[1] its id
-- ARGV[2] the digest of the secret, empty for who needs none
-- ARGV[3] why
-- Answer: {1} it lived until now; or as `refusal` says
-- Safe to run twice: the second finds its grave.
local base, id = string.sub(KEYS[1], 1, -#ARGV[1] - 3), ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local code, s = standing(base, id, ARGV[2], now)
if code ~= 1 then
  return refusal(base, id, code, s, now)
end
bury(base, id, s, 'invalidated', ARGV[3], now)
return {1}
