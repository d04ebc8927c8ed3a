-- Takes work for a consumer: first what is due again, then what is new.
-- KEYS[1..6] the stream; the id up to which the group has taken; its deliveries under way, by when
--            they are due again; their bodies; its dead letters, by when they died; their bodies
-- KEYS[7] what the consumer was told last, while that is its own
-- ARGV[1] the consumer
-- ARGV[2] how much at most
-- ARGV[3] for how long it is the consumer's, in ms
-- ARGV[4] how often an event is delivered at most
-- ARGV[5] where a group that is not there begins: `0-0`, `$` or an id, itself not included
-- ARGV[6] for how long the group is kept, in ms
-- ARGV[7] the token of the take, 8 bytes
-- ARGV[8] after how many bytes of events it is enough
-- Answer: {1, ms until something is due again or -1, ms for which this is the consumer's, number
--         buried, id up to which was taken before or *, the same now, number due, number new, id,
--         deliveries, nonce and envelope, …, id, id before it as in `read`, the same, …}
-- Safe to run twice: the second is told the same, and counts nothing, while the lease lasts.
local now, most, enough = clock(), tonumber(ARGV[2]), tonumber(ARGV[8])
local due_at, bytes = now + tonumber(ARGV[3]), 0
sound(KEYS)
local at, last = redis.call('GET', KEYS[2]), newest(KEYS[1]) or '0-0'
local function told(answer)
  local due = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
  answer[2] = due and math.max(tonumber(due) - now, 0) or -1
  return answer
end
local answer = told_before(KEYS, ARGV[7], now)
if answer then
  return told(answer)
end
answer = {1, -1, tonumber(ARGV[3]), 0, at or '*', at or ARGV[5], 0, 0}
local function give(id, what, work)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = id, what, work.event
  work.token, work.consumer = ARGV[7], ARGV[1]
  redis.call('HSET', KEYS[4], id, wrap(work))
  redis.call('ZADD', KEYS[3], due_at, id)
  bytes = bytes + #work.event
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, most)) do
  local body = redis.call('HGET', KEYS[4], id)
  local work = body and unwrap(body)
  if not work then
    redis.call('ZREM', KEYS[3], id)
  elseif work.deliveries >= tonumber(ARGV[4]) then
    bury(KEYS, id, work, now)
    answer[4] = answer[4] + 1
  elseif bytes < enough then
    work.deliveries = work.deliveries + 1
    give(id, work.deliveries, work)
    answer[7] = answer[7] + 1
  end
end
local asked, count = 0, 0
if answer[6] == '$' or earlier(last, answer[6]) and last ~= '0-0' then
  -- The stream was set back, if this is not how the group begins: what comes now is new.
  answer[6] = last
end
-- Two at first, and never many, for these may be long.
while count == asked and bytes < enough and answer[7] + answer[8] < most do
  asked = math.min(asked == 0 and 2 or 8, most - answer[7] - answer[8])
  local new = redis.call('XRANGE', KEYS[1], '(' .. answer[6], '+', 'COUNT', asked)
  count = #new
  for _, entry in ipairs(new) do
    local prior, event = fields(entry)
    give(entry[1], prior, {deliveries = 1, reason = '', event = event})
    answer[6], answer[8] = entry[1], answer[8] + 1
  end
end
redis.call('SET', KEYS[2], answer[6])
keep(KEYS, ARGV[6])
if #answer > 8 or at ~= answer[6] then
  remember(KEYS[7], ARGV[7], due_at, answer, ARGV[3])
end
return told(answer)
