-- Lists a group's dead letters, the oldest first.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] how many to pass over
-- ARGV[2] how many at most
-- Answer: {1, number of them, id, when in ms, deliveries, consumer, reason, nonce and envelope, …}
-- Safe to run twice: it changes nothing.
local from = tonumber(ARGV[1])
local ids = redis.call('ZRANGE', KEYS[5], from, from + ARGV[2] - 1, 'WITHSCORES')
local answer, count = {1, 0}, 0
for i = 1, #ids, 2 do
  local body = redis.call('HGET', KEYS[6], ids[i])
  if body then
    local dead = unwrap(body)
    for _, part in ipairs({ids[i], tonumber(ids[i + 1]), dead.deliveries, dead.consumer,
      dead.reason, dead.event}) do
      answer[#answer + 1] = part
    end
    count = count + 1
  end
end
answer[2] = count
return answer
