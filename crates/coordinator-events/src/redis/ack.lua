-- Ends a delivery: its work is done.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] the id
-- ARGV[2] the token of the take that delivered it
-- Answer: {1} it is done; {0} it was not under way any more
-- Safe to run twice: the second finds it done.
sound(KEYS)
if not held(KEYS, ARGV[1], ARGV[2]) then
  return {0}
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
return {1}
