-- Gives a policy a new epoch in a shard: its limits start anew, and the old ones expire.
-- KEYS[1] the epoch
-- ARGV[1] for how many ms an epoch is remembered, which is longer than any limit lives
-- Answer: {epoch}
-- Safe to run twice: once more anew.
local time = redis.call('TIME')
local epoch = math.max(time[1] * 1000000 + time[2], tonumber(redis.call('GET', KEYS[1]) or '0') + 1)
redis.call('SET', KEYS[1], string.format('%.0f', epoch), 'PX', ARGV[1])
return {epoch}
