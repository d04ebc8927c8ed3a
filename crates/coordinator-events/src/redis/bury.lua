-- Makes a delivery a dead letter.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] the id
-- ARGV[2] which delivery of it
-- ARGV[3] why
-- ARGV[4] for how long the group is kept, in ms
-- Answer: {1} it is one; {0} it was not under way any more
-- Safe to run twice: the second finds it dead.
sound(KEYS)
local number = tonumber(ARGV[2])
local work = held(KEYS, ARGV[1], number)
if not work then
  return {0}
end
bury(KEYS, ARGV[1], number, work.consumer, ARGV[3], work.event, clock())
keep(KEYS, ARGV[4])
return {1}
