-- Sets when a delivery is due again: later for whoever still works on it, soon for whoever failed.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] the id
-- ARGV[2] which delivery of it
-- ARGV[3] in how many ms
-- ARGV[4] why it failed; empty if it did not
-- ARGV[5] how often an event is delivered at most; one that failed so often is buried
-- ARGV[6] for how long the group is kept, in ms
-- Answer: {1} so it is; {2} it was buried; {0} it was not under way any more
-- Safe to run twice: the second sets the same.
sound(KEYS)
local id, number, now = ARGV[1], tonumber(ARGV[2]), clock()
local work = held(KEYS, id, number)
if not work then
  return {0}
end
if ARGV[4] ~= '' then
  if number >= tonumber(ARGV[5]) then
    bury(KEYS, id, number, work.consumer, ARGV[4], work.event, now)
    keep(KEYS, ARGV[6])
    return {2}
  end
  redis.call('HSET', KEYS[4], id, wrap(number, work.consumer, ARGV[4], work.event))
end
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[3]), id)
keep(KEYS, ARGV[6])
return {1}
