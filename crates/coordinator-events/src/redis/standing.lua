-- Tells how a group stands.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- Answer: {0} it is not there; {1, deliveries under way, how many of these are due, dead letters,
--         id up to which it has taken, last id there ever was}
-- Safe to run twice: it changes nothing.
local at = redis.call('GET', KEYS[2])
if not at then
  return {0}
end
return {1, redis.call('ZCARD', KEYS[3]), redis.call('ZCOUNT', KEYS[3], '-inf', clock()),
  redis.call('ZCARD', KEYS[5]), at, newest(KEYS[1]) or '0-0'}
