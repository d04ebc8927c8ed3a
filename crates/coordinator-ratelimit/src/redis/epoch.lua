-- Tells a policy's epoch in a shard.
-- KEYS[1] the epoch
-- Answer: {epoch}
-- Safe to run twice: it changes nothing.
return {tonumber(redis.call('GET', KEYS[1]) or '0')}
