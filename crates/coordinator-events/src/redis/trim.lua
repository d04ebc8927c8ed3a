-- Forgets the events of a scope before one.
-- KEYS[1] the stream
-- ARGV[1] the id of the first that stays
-- Answer: {1, how many were forgotten}
-- Safe to run twice: the second finds none.
return {1, redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[1])}
