-- Says for the time of a lease that an owner waits for a lock.
-- KEYS[1] what the owner waits for: by token until when in µs (16 digits), since when in µs (16
--         digits), the lock's member
-- ARGV[1] the token of the claim that waits
-- ARGV[2] the lease in ms
-- ARGV[3] since when in µs: its ticket
-- ARGV[4] the lock's member
-- Answer: {1}.
-- Safe to run twice: it only prolongs.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stamps = string.format('%016.0f%016.0f', now + tonumber(ARGV[2]) * 1000, tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], ARGV[1], stamps .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1}
