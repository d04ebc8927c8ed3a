-- Counts the conversations of a shard that live.
-- KEYS[1] the index
-- Answer: {count}
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {redis.call('ZCOUNT', KEYS[1], string.format('%.0f', now), '+inf')}
