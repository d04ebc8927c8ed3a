-- Begins to move a session to another shard: from now on it changes no more, and whoever comes with
-- its secret carries the move on.
-- KEYS[1] its hash; named with its grave, so that a slot that moves is refused
-- ARGV[1] its id
-- ARGV[2] the digest of the secret, empty for who only carries on
-- ARGV[3] the digest of the next one; empty to carry on what somebody else began
-- ARGV[4] the next secret, wrapped
-- ARGV[5] for how long the secret before is honoured, in ms
-- ARGV[6] whither
-- ARGV[7] the epoch of the user there
-- ARGV[8] ARGV[9] ARGV[10] ARGV[11] user, company, crew and the CRC of these
-- Answer: {1, shard, epoch of the user, grace in ms, CRC, user, company, crew, digest, wrapped
--         secret, …}: the move, then the session as `told` tells it; or as `refusal` says
-- Safe to run twice: the first decides; all others are told what it decided.
local base, id = string.sub(KEYS[1], 1, -#ARGV[1] - 3), ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local code, s = standing(base, id, ARGV[2], now)
if code == 1 and ARGV[3] ~= '' and not s.grace then
  s.move = struct.pack('<I4I4dd', tonumber(ARGV[6]), tonumber(ARGV[11]), tonumber(ARGV[5]),
    tonumber(ARGV[7])) .. ARGV[3] .. ARGV[4] .. struct.pack('sss', ARGV[8], ARGV[9], ARGV[10])
  redis.call('HSET', KEYS[1], 'v', s.move)
elseif code == 1 then
  return {2}
elseif code ~= 5 or not s.move then
  return refusal(base, id, code, s, now)
end
local shard, crc, grace, of_user = struct.unpack('<I4I4dd', s.move)
local user, company, crew = struct.unpack('sss', s.move, 89)
return told(base, id, s, now, {1, shard, of_user, grace, crc, user, company, crew,
  string.sub(s.move, 25, 56), string.sub(s.move, 57, 88)})
