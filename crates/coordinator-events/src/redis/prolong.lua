-- Lets a stream live for longer, and never for shorter: a change for replicas to wait for.
-- KEYS[1] the stream
-- ARGV[1] for how long from now on at least, in ms
-- Answer: 1, or 0 where there is none
-- Safe to run twice: the second prolongs it from then on.
local left = math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[1]))
return redis.call('PEXPIRE', KEYS[1], string.format('%.0f', left))
