-- Takes one of so many slots for a lease, or says when one is free at the latest.
-- KEYS[1] the slots: tokens by the µs of their expiry
-- KEYS[2] the count of its denials
-- ARGV[1] the token
-- ARGV[2] how many slots there are
-- ARGV[3] the lease in µs
-- ARGV[4] how many denials the caller has answered by itself; -1: record none
-- Answer: {1, used} taken; {0, used, retry in µs} all are taken
-- Safe to run twice: a token has one slot.
local time = redis.call('TIME')
local t, slots, lease = time[1] * 1000000 + time[2], tonumber(ARGV[2]), tonumber(ARGV[3])
local used = redis.call('ZCOUNT', KEYS[1], t + 1, '+inf')
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
held = held and tonumber(held) > t
if held or used < slots then
  -- Full memory refuses no write that follows another: so this one comes first.
  redis.call('ZADD', KEYS[1], t + lease, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', t)
  redis.call('PEXPIRE', KEYS[1], math.ceil(lease / 1000) + 1)
  return {1, held and used or used + 1}
end
-- What ends later was given before the server's clock was set back.
local ahead = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', t + lease), '+inf')
for _, token in ipairs(ahead) do
  redis.call('ZADD', KEYS[1], t + lease, token)
end
if ARGV[4] ~= '-1' then
  denied(KEYS[1], KEYS[2], tonumber(ARGV[4]), 'denied', t, lease, slots, 1, used)
end
local first = redis.call('ZRANGEBYSCORE', KEYS[1], t + 1, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
return {0, used, first and first - t or -1}
