-- Gives a session another secret, and other names if it is asked to; the secret before is honoured
-- for a while.
-- KEYS[1] its hash; named with its grave, so that a slot that moves is refused
-- ARGV[1] its id
-- ARGV[2] the digest of the secret
-- ARGV[3] the digest of the next one
-- ARGV[4] the next secret, wrapped so that who has the one before can read it
-- ARGV[5] for how long that is honoured, in ms
-- ARGV[6] the throttle in ms
-- ARGV[7..] two as in cap.lua, for another user; whether the names change; user, company, crew and
--          the CRC of these
-- Answer: {1, version, expiry in ms, now in ms, wrapped secret: another's if another was first};
--         {9, live} its user has as many sessions; or as `refusal` says
-- Safe to run twice: whoever comes with the secret before is told the one that replaced it.
local base, id = string.sub(KEYS[1], 1, -#ARGV[1] - 3), ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local code, s = standing(base, id, ARGV[2], now)
if code ~= 1 then
  return refusal(base, id, code, s, now)
elseif s.grace then
  local wrapped = s.grace == 1 and redis.call('GET', base .. 'w:' .. id) or ''
  return {1, s.version, s.expiry, now, wrapped}
end
local new, leaving, live = anchor(anchored(s)), {}, 0
if ARGV[9] == '1' then
  new.user, new.company, new.crew, new.crc = ARGV[10], ARGV[11], ARGV[12], tonumber(ARGV[13])
  if new.user ~= s.user then
    new.of_user = (epoch(base .. 'g:' .. new.user))
    if tonumber(ARGV[7]) > 0 and new.user ~= '' then
      leaving, live = crowd(base, new.user, id, '', now, tonumber(ARGV[7]), tonumber(ARGV[8]))
      if #leaving > 0 and ARGV[8] == '0' then
        return {9, live}
      end
    end
  end
  if new.company ~= s.company then
    new.of_company = (epoch(base .. 'gc:' .. new.company))
  end
end
new.version, new.schema, new.token, new.last = s.version + 1, s.schema, s.token, now
new.expiry = math.min(now + s.idle + tonumber(ARGV[6]), s.created + s.absolute)
local older = s.older
if s.past ~= '' then
  older = string.sub(s.past, 1, 8) .. string.sub(s.past, 33, 40) .. older
end
local past = s.digest .. struct.pack('<d', now + tonumber(ARGV[5]))
sound(base, s)
sound(base, new)
redis.call('HSET', KEYS[1], 'a', anchored(new), 'm', moved(new), 'k', ARGV[3], 'p', past,
  'o', string.sub(older, 1, 128))
redis.call('SET', base .. 'w:' .. id, ARGV[4], 'PX', ARGV[5])
unindex(base, id, s)
index(base, id, new, now)
for _, other in ipairs(leaving) do
  bury(base, other.id, other, 'invalidated', 'cap', now)
end
announce(base, id, 'rotated', new, '')
return {1, new.version, new.expiry, now, ARGV[4]}
