-- Ends a delivery: its work is done.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] the id
-- ARGV[2] the token of the take that delivered it
-- Answer: {1} it is done; {2} the group took it, and it is nobody's any more: it was done before;
--         {0} it is another's, or a dead letter, or was never taken here
-- Safe to run twice: the second finds it done before.
sound(KEYS)
local id, at = ARGV[1], redis.call('GET', KEYS[2])
if held(KEYS, id, ARGV[2]) then
  redis.call('ZREM', KEYS[3], id)
  redis.call('HDEL', KEYS[4], id)
  return {1}
end
local open = redis.call('HEXISTS', KEYS[4], id) + redis.call('HEXISTS', KEYS[6], id) > 0
if open or not at or earlier(at, id) then
  return {0}
end
return {2}
