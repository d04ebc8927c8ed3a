-- Changes fields of a session that lives, and no other field.
-- KEYS[1] its hash; named with its grave, so that a slot that moves is refused
-- ARGV[1] its id
-- ARGV[2] the digest of the secret
-- ARGV[3] the token of this write
-- ARGV[4] the version that it must have; -1 for any
-- ARGV[5] the throttle in ms
-- ARGV[6] the schema of the data; -1 for what it is
-- ARGV[7] whether it is announced
-- ARGV[8] how many fields there may be
-- ARGV[9] how many fields to write
-- ARGV[10..] these and their values, then fields to remove
-- Answer: {1, version, expiry in ms, now in ms}; {7, version} it has another version; {8, fields}
--         there would be too many; or as `refusal` says
-- Safe to run twice: the token of the last write tells the second, which changes nothing and
--         answers the same. Behind a write of others it is made again, as any late one of the same
--         fields is, unless it names the version that it must have.
local base, id = string.sub(KEYS[1], 1, -#ARGV[1] - 3), ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local code, s = standing(base, id, ARGV[2], now)
if code ~= 1 then
  return refusal(base, id, code, s, now)
elseif s.token == ARGV[3] then
  return {1, s.version, s.expiry, now}
elseif ARGV[4] ~= '-1' and tonumber(ARGV[4]) ~= s.version then
  return {7, s.version}
end
local last = 9 + 2 * tonumber(ARGV[9])
local stays = {}
for i = 10, last, 2 do
  stays['d:' .. ARGV[i]] = 1
end
for i = last + 1, #ARGV do
  stays['d:' .. ARGV[i]] = 0
end
local most, more, removed = tonumber(ARGV[8]), 0, {}
for field, stay in pairs(stays) do
  more = more + stay - redis.call('HEXISTS', KEYS[1], field)
  removed[#removed + 1] = stay == 0 and field or nil
end
local kept = {'a', 'm', 'k', 'p', 'o', 'l'}
local own = 0
for _, flag in ipairs(redis.call('HMGET', KEYS[1], unpack(kept))) do
  own = own + (flag and 1 or 0)
end
local fields = redis.call('HLEN', KEYS[1]) - own + more
if more > 0 and fields > most then
  return {8, fields}
end
s.version, s.token = s.version + 1, ARGV[3]
if ARGV[6] ~= '-1' then
  s.schema = tonumber(ARGV[6])
end
sound(base, s)
local touched = touch(base, s, now, tonumber(ARGV[5]))
local written = {'m', moved(s)}
for i = 10, last, 2 do
  written[#written + 1], written[#written + 2] = 'd:' .. ARGV[i], ARGV[i + 1]
end
redis.call('HSET', KEYS[1], unpack(written))
for _, field in ipairs(removed) do
  redis.call('HDEL', KEYS[1], field)
end
if touched then
  index(base, id, s, now)
end
if ARGV[7] == '1' then
  announce(base, id, 'updated', s, '')
end
return {1, s.version, s.expiry, now}
