-- Ends a delivery: its work is done.
-- KEYS[1] the stream
-- KEYS[2] the id up to which the group has taken
-- KEYS[3] its deliveries under way, by when they are due again
-- KEYS[4] their bodies
-- KEYS[5] its dead letters, by when they died
-- KEYS[6] their bodies
-- ARGV[1] the id
-- ARGV[2] which delivery of it
-- Answer: {1} it is done; {0} it was not under way any more
-- Safe to run twice: the second finds it done.
sound()
if not held(ARGV[1], tonumber(ARGV[2])) then
  return {0}
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
return {1}
