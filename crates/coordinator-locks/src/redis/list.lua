-- Lists held locks of one shard, by expiry.
-- KEYS[1] the shard's index of held locks; its name without `held` begins the
--         locks' and the queues'
-- ARGV[1] how many to pass over
-- ARGV[2] how many to list at the most
-- Answer: {seen, {member, pttl, fence, since, waiters, holder}, …}; `seen` counts the
--         index entries looked at, and fewer than ARGV[2] means that there are no more.
-- Safe to run twice: it removes nothing but what has expired.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local base = string.sub(KEYS[1], 1, -5)
local first = tonumber(ARGV[1])
local members = redis.call('ZRANGE', KEYS[1], first, first + tonumber(ARGV[2]) - 1)
local answer = {#members}
for _, member in ipairs(members) do
  local lock = redis.call('GET', base .. 'lock:' .. member)
  if lock then
    answer[#answer + 1] = {
      member,
      redis.call('PTTL', base .. 'lock:' .. member),
      tonumber(string.sub(lock, 33, 48)),
      tonumber(string.sub(lock, 49, 64)),
      redis.call('ZCARD', base .. 'queue:' .. member),
      string.sub(lock, 65),
    }
  end
end
return answer
