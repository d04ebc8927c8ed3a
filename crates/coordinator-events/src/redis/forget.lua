-- Forgets a group, its work and its dead letters.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- Answer: {1} it is forgotten; {0} it was not there
-- Safe to run twice: the second finds none.
return {redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]) > 0 and 1 or 0}
