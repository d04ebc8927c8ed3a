-- Ends one move of a session that has arrived elsewhere, and no other: what comes very late may
-- meet a second move, which may not have arrived.
-- KEYS[1] its hash
-- KEYS[2] its grave
-- ARGV[1] its id
-- ARGV[2] the digest of the secret that it has there, which names the move
-- Answer: {1} it is moved; {0} it does not move so, or no more
-- Safe to run twice: the second finds it gone.
local base, id = string.sub(KEYS[1], 1, -#ARGV[1] - 3), ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local got = redis.call('HMGET', KEYS[1], 'a', 'm', 'k', 'v')
if not got[1] or not got[2] or not got[3] or not got[4] then
  return {0}
end
local s = session(KEYS[1], got[1], got[2])
if string.sub(got[4], 25, 56) ~= ARGV[2] then
  return {0}
end
local shard, _, grace = struct.unpack('<I4I4d', got[4])
local ttl = rest(s, longest(base, id), now)
sound(base, s)
local grave = 'm' .. struct.pack('<I4dd', shard, now + grace, s.version) .. got[3]
redis.call('SET', KEYS[2], grave, 'PX', ttl)
redis.call('SET', base .. 'w:' .. id, string.sub(got[4], 57, 88), 'PX', math.max(grace, 1))
redis.call('DEL', KEYS[1])
unindex(base, id, s)
return {1}
