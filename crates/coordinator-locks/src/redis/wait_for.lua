-- Says for the time of a lease that an owner waits for a lock.
-- KEYS[1] what the owner waits for: by token until when in µs (16 digits), since when in µs (16
--         digits), the lock's member
-- ARGV[1] the token of the claim that waits
-- ARGV[2] the lease in ms
-- ARGV[3] the lock's member
-- Answer: {1, since when in µs}.
-- Safe to run twice: it only prolongs; since when stays.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local known = redis.call('HGET', KEYS[1], ARGV[1])
local since = now
if known and tonumber(string.sub(known, 1, 16)) > now then
  since = tonumber(string.sub(known, 17, 32))
end
local stamps = string.format('%016.0f%016.0f', now + tonumber(ARGV[2]) * 1000, since)
redis.call('HSET', KEYS[1], ARGV[1], stamps .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1, since}
