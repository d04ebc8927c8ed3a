-- Counts the documents of a namespace in one shard.
-- KEYS[1] its names by their end
-- Answer: {how many}
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {redis.call('ZCOUNT', KEYS[1], string.format('%.0f', now), '+inf')}
