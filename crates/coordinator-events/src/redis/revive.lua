-- Takes a dead letter away, or gives it another life.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] the id
-- ARGV[2] 1 to deliver it again at once, 0 to forget it
-- ARGV[3] for how long the group is kept, in ms
-- Answer: {1} done; {0} there is no such dead letter
-- Safe to run twice: the second finds none.
sound(KEYS)
local body = redis.call('HGET', KEYS[6], ARGV[1])
if not body then
  redis.call('ZREM', KEYS[5], ARGV[1])
  return {0}
end
if ARGV[2] == '1' then
  -- Counted anew. Nobody has it, however many had it in the life before.
  local work = unwrap(body)
  work.deliveries, work.token = 0, NOBODY
  redis.call('HSET', KEYS[4], ARGV[1], wrap(work))
  redis.call('ZADD', KEYS[3], clock(), ARGV[1])
end
redis.call('HDEL', KEYS[6], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
keep(KEYS, ARGV[3])
return {1}
