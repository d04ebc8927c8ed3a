-- Says what an owner waits for.
-- KEYS[1] what the owner waits for
-- Answer: {count, {token, since when in µs, the lock's member}, …}.
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local known = redis.call('HGETALL', KEYS[1])
local answer = {0}
for i = 1, #known, 2 do
  local wait = known[i + 1]
  if tonumber(string.sub(wait, 1, 16)) > now then
    local since = tonumber(string.sub(wait, 17, 32))
    answer[#answer + 1] = {known[i], since, string.sub(wait, 33)}
  end
end
answer[1] = #answer - 1
return answer
