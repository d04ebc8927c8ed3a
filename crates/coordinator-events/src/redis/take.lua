-- Takes work for a consumer: first what is due again, then what is new.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- ARGV[1] the consumer
-- ARGV[2] how much at most
-- ARGV[3] for how long it is the consumer's, in ms
-- ARGV[4] how often an event is delivered at most
-- ARGV[5] where a group that is not there begins: `0-0`, `$` or an id, itself not included
-- ARGV[6] for how long the group is kept, in ms
-- Answer: {1, ms until something is due again or -1, number buried, number due, id, deliveries,
--         nonce and envelope, …, id up to which was taken before or *, the same now, number of new
--         ones, id, id before it or *, nonce and envelope, …}; `read` says what stands before an id
-- Safe to run twice: what an answer that was lost told of is due again after its time.
local now, most, due_at = clock(), tonumber(ARGV[2]), 0
due_at = now + tonumber(ARGV[3])
sound(KEYS)
local at = redis.call('GET', KEYS[2])
local from = at or ARGV[5]
local answer, buried, again = {1, -1, 0, 0}, 0, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, most)) do
  local body = redis.call('HGET', KEYS[4], id)
  if not body then
    redis.call('ZREM', KEYS[3], id)
  else
    local deliveries, consumer, reason, event = unwrap(body)
    if deliveries >= tonumber(ARGV[4]) then
      bury(KEYS, id, deliveries, consumer, reason, event, now)
      buried = buried + 1
    else
      redis.call('HSET', KEYS[4], id, wrap(deliveries + 1, ARGV[1], reason, event))
      redis.call('ZADD', KEYS[3], due_at, id)
      again = again + 1
      local n = #answer
      answer[n + 1], answer[n + 2], answer[n + 3] = id, deliveries + 1, event
    end
  end
end
local new, last = {}, newest(KEYS[1]) or '0-0'
if from == '$' then
  from = last
elseif earlier(last, from) and last ~= '0-0' then
  -- The stream was set back: what comes now is new.
  from = last
elseif again < most then
  new = redis.call('XRANGE', KEYS[1], '(' .. from, '+', 'COUNT', most - again)
end
answer[3], answer[4] = buried, again
answer[#answer + 1] = at or '*'
answer[#answer + 1] = #new > 0 and new[#new][1] or from
answer[#answer + 1] = #new
for _, entry in ipairs(new) do
  local before, event = '*', ''
  for i = 1, #entry[2], 2 do
    before = entry[2][i] == 'p' and entry[2][i + 1] or before
    event = entry[2][i] == 'e' and entry[2][i + 1] or event
  end
  from = entry[1]
  redis.call('HSET', KEYS[4], from, wrap(1, ARGV[1], '', event))
  redis.call('ZADD', KEYS[3], due_at, from)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = from, before, event
end
redis.call('SET', KEYS[2], from)
keep(KEYS, ARGV[6])
local next_due = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
answer[2] = next_due and math.max(tonumber(next_due) - now, 0) or -1
return answer
