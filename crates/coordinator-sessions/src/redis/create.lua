-- Creates a session, also one that moves here or is restored.
-- KEYS[1] its hash
-- KEYS[2] its grave
-- ARGV[1] its id
-- ARGV[2] the digest of its secret
-- ARGV[3..] in this order: user, company and crew, each empty for none; the CRC of the names; idle
--          timeout, absolute timeout and throttle in ms; the schema of its data; how many sessions
--          its user may have, 0 for any number, and what else: see cap.lua; 13: 0 it is new, 1 it
--          moves here, 2, 3, 4 it is restored: if it is not there, if it is newer, whatever is
--          there; of one that was before: created (-1: it begins now), last activity, version,
--          epochs of user and company (-1: as they are); 19: whether it is announced; 20: the
--          session that it replaces, empty for none or one of another shard; its fields and values
-- Answer: {1, version, expiry in ms, now in ms, how many had to go}; {2} it was there; {3} its
--         grave is; {4} revoked as a whole since; {5, live} its user has as many; {6} too late
-- Safe to run twice: the second finds it there with its digest, and answers the same.
local base, id = string.sub(KEYS[1], 1, -#ARGV[1] - 3), ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mode, carried, throttle = tonumber(ARGV[13]), ARGV[13] ~= '0', tonumber(ARGV[9])
local s = {created = now, last = now, version = 1, user = ARGV[3], company = ARGV[4],
  crew = ARGV[5], crc = tonumber(ARGV[6]), idle = tonumber(ARGV[7]), absolute = tonumber(ARGV[8]),
  schema = tonumber(ARGV[10]), token = string.rep('\0', 8)}
if carried then
  s.created, s.last, s.version = tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
  if s.created < 0 then
    s.created, s.last = now, now
  end
end
s.expiry = math.min(s.last + s.idle + throttle, s.created + s.absolute)
local there, old = redis.call('HMGET', KEYS[1], 'k', 'm', 'a', 'v'), nil
local grave, ever = redis.call('GET', KEYS[2]), 0
if grave and not (mode == 1 and left(grave) < s.version) then
  return {3}
elseif there[1] and there[2] and there[3] then
  old = session(KEYS[1], there[3], there[2])
  if mode < 2 and there[1] == ARGV[2] then
    return {1, old.version, old.expiry, now, 0}
  elseif mode < 3 or there[4] or mode == 3 and (s.version < old.version
      or s.version == old.version and s.last <= old.last) then
    return {2}
  elseif revoked(base, old) then
    return {3}
  end
  ever = math.max(old.absolute, longest(base, id))
elseif grave then
  ever = now + redis.call('PTTL', KEYS[2]) - REMEMBERED - s.created
end
local of_user, of_company = epoch(base .. 'g:' .. s.user), (epoch(base .. 'gc:' .. s.company))
s.of_user = ARGV[17] == '-1' and of_user or tonumber(ARGV[17])
s.of_company = ARGV[18] == '-1' and of_company or tonumber(ARGV[18])
if s.user ~= '' and s.of_user < of_user or s.company ~= '' and s.of_company < of_company then
  return {4}
elseif now >= s.expiry then
  return {6}
elseif mode > 1 then
  -- What was known elsewhere may be of a clock that is ahead: who is revoked from now on is.
  s.of_user = math.min(s.of_user, math.max(of_user, now - 1))
  s.of_company = math.min(s.of_company, math.max(of_company, now - 1))
end
local leaving, live = {}, 0
if ARGV[11] ~= '0' and s.user ~= '' then
  leaving, live = crowd(base, s.user, id, ARGV[20], now, tonumber(ARGV[11]), tonumber(ARGV[12]))
  if #leaving > 0 and ARGV[12] == '0' then
    return {5, live}
  end
end
sound(base, s)
local evicted = #leaving
leaving[evicted + 1] = replaced(base, ARGV[20], now)
local fields = {'a', anchored(s), 'm', moved(s), 'k', ARGV[2]}
fields[7], fields[8] = ever > 0 and 'l' or nil, ever > 0 and string.format('%.0f', ever) or nil
for i = 21, #ARGV, 2 do
  fields[#fields + 1], fields[#fields + 2] = 'd:' .. ARGV[i], ARGV[i + 1]
end
if old then
  sound(base, old)
  unindex(base, id, old)
end
if grave or redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('DEL', KEYS[1], KEYS[2])
end
redis.call('HSET', KEYS[1], unpack(fields))
index(base, id, s, now)
for _, other in ipairs(leaving) do
  bury(base, other.id, other, 'invalidated', other.reason or 'cap', now)
end
if ARGV[19] == '1' then
  announce(base, id, mode == 1 and 'rotated' or 'created', s, '')
end
return {1, s.version, s.expiry, now, evicted}
