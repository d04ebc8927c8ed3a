-- Gives a session that lives other timeouts, counted from now and from its creation; one whose time
-- is over by these expires.
-- KEYS[1] its hash; named with its grave, so that a slot that moves is refused
-- ARGV[1] its id
-- ARGV[2] the digest of the secret
-- ARGV[3] the idle timeout in ms; -1 for what it is
-- ARGV[4] the absolute timeout in ms; -1 for what it is
-- ARGV[5] the throttle in ms
-- Answer: {1, version, expiry in ms, now in ms}; or as `refusal` says
-- Safe to run twice: they are the same the second time, or its grave is there.
local base, id = string.sub(KEYS[1], 1, -#ARGV[1] - 3), ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local code, s = standing(base, id, ARGV[2], now)
if code ~= 1 then
  return refusal(base, id, code, s, now)
end
local idle, absolute = s.idle, s.absolute
s.idle = ARGV[3] == '-1' and s.idle or tonumber(ARGV[3])
s.absolute = ARGV[4] == '-1' and s.absolute or tonumber(ARGV[4])
s.last = now
s.expiry = math.min(now + s.idle + tonumber(ARGV[5]), s.created + s.absolute)
sound(base, s)
local fields = {'a', anchored(s), 'm', moved(s)}
if s.idle < idle or s.absolute < absolute then
  -- A copy from before lives by what it was then: so long nothing may revive this one.
  fields[5], fields[6] = 'l', string.format('%.0f', math.max(longest(base, id), absolute))
end
redis.call('HSET', KEYS[1], unpack(fields))
if s.expiry <= now then
  bury(base, id, s, 'expired', '', now)
  return {3}
end
index(base, id, s, now)
return {1, s.version, s.expiry, now}
