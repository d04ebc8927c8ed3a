-- Gives a slot back.
-- KEYS[1] the slots: tokens by the µs of their expiry
-- ARGV[1] the token
-- Answer: {1} it was held; {0} it was not, or no more
-- Safe to run twice: a token has one slot.
return {redis.call('ZREM', KEYS[1], ARGV[1])}
