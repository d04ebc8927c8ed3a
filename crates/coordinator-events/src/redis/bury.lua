-- Makes a delivery a dead letter.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] the id
-- ARGV[2] the token of the take that delivered it
-- ARGV[3] why
-- ARGV[4] for how long the group is kept, in ms
-- Answer: {1} it is one; {0} it was not under way any more
-- Safe to run twice: the second finds it dead, and says so.
sound(KEYS)
local work = held(KEYS, ARGV[1], ARGV[2])
if work then
  work.reason = ARGV[3]
  bury(KEYS, ARGV[1], work, clock())
elseif not is_dead(KEYS, ARGV[1], ARGV[2]) then
  return {0}
end
keep(KEYS, ARGV[4])
return {1}
