-- Prolongs the lease of a slot.
-- KEYS[1] the slots: tokens by the µs of their expiry
-- ARGV[1] the token
-- ARGV[2] the lease in µs
-- Answer: {1} prolonged; {0} it was lost, and is not taken again
-- Safe to run twice: it only prolongs what is held.
local time = redis.call('TIME')
local t, lease = time[1] * 1000000 + time[2], tonumber(ARGV[2])
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not held or tonumber(held) <= t then
  return {0}
end
redis.call('ZADD', KEYS[1], 'XX', t + lease, ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(lease / 1000) + 1)
return {1}
