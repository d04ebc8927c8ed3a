-- The first of limitador's two steps on Redis: what is used.
-- KEYS[1] the counter
return {redis.call('GET', KEYS[1]) or 0, redis.call('PTTL', KEYS[1])}
