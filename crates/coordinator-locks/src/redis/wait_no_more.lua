-- Says that an owner waits no more with a token.
-- KEYS[1] what the owner waits for
-- ARGV[1] the token
-- Answer: {count}, 1 or 0.
-- Safe to run twice: a token waits once.
return {redis.call('HDEL', KEYS[1], ARGV[1])}
