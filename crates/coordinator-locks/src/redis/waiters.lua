-- Says who stands in the queue of a lock, the next first.
-- KEYS[1] the queue
-- KEYS[2] the records of who stands in it
-- KEYS[3] the shard's heartbeats
-- ARGV[1] how many to tell of at the most
-- Answer: {count, {waited in µs, priority, holder to be}, …} without those whose client is gone.
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer = {0}
for _, token in ipairs(redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)) do
  local record = redis.call('HGET', KEYS[2], token)
  local beat = record and tonumber(redis.call('ZSCORE', KEYS[3], string.sub(record, 1, 16)))
  if beat and now - beat <= ALIVE then
    local waited = math.max(now - tonumber(string.sub(record, 17, 32)), 0)
    local priority = tonumber(string.sub(record, 50, 52))
    answer[#answer + 1] = {waited, priority, string.sub(record, 53)}
  end
end
answer[1] = #answer - 1
return answer
