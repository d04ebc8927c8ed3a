-- Sets when a delivery is due again: later for whoever still works on it, soon for whoever failed.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] the id
-- ARGV[2] the token of the take that delivered it
-- ARGV[3] in how many ms
-- ARGV[4] why it failed; empty if it did not
-- ARGV[5] how often an event is delivered at most; one that failed so often is buried
-- ARGV[6] for how long the group is kept, in ms
-- Answer: {1} so it is; {2} it was buried; {0} it was not under way any more
-- Safe to run twice: the second sets the same, or finds it buried.
sound(KEYS)
local id, now = ARGV[1], clock()
local work = held(KEYS, id, ARGV[2])
if not work and (ARGV[4] == '' or not is_dead(KEYS, id, ARGV[2])) then
  return {0}
end
if not work or ARGV[4] ~= '' and work.deliveries >= tonumber(ARGV[5]) then
  if work then
    work.reason = ARGV[4]
    bury(KEYS, id, work, now)
  end
  keep(KEYS, ARGV[6])
  return {2}
end
if ARGV[4] ~= '' then
  work.reason = ARGV[4]
  redis.call('HSET', KEYS[4], id, wrap(work))
end
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[3]), id)
keep(KEYS, ARGV[6])
return {1}
