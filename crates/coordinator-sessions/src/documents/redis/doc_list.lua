-- Lists documents of a namespace in one shard, in the order of their encoded names.
-- KEYS[1] the names of the namespace in this shard; its name, with `doc` in place of `names`,
--         begins the documents'
-- KEYS[2] the same by their end
-- ARGV[1] where encoded names begin, as ZRANGEBYLEX has it
-- ARGV[2] where they end
-- ARGV[3] how many names to look at
-- ARGV[4] how many names that have ended to take out of the index first
-- Answer: {1 if there may be more, {name, version, updated in µs, ms left or -1, bytes}, …};
--         a version of 0: what is there cannot be read
-- Safe to run twice: it takes nothing out of the index but names of what is gone.
local shard, namespace = string.match(KEYS[1], '^(.*:)names:([^:]*)$')
local base = shard .. 'doc:' .. namespace .. ':'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', now),
  'LIMIT', 0, ARGV[4])
if #ended > 0 then
  redis.call('ZREM', KEYS[1], unpack(ended))
  redis.call('ZREM', KEYS[2], unpack(ended))
end
local names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local answer = {#names == tonumber(ARGV[3]) and 1 or 0}
local gone = {}
for _, name in ipairs(names) do
  local left = redis.call('PTTL', base .. name)
  if left == -2 then
    gone[#gone + 1] = name
  else
    local head = redis.pcall('HGET', base .. name, 'head')
    local version, updated, bytes = 0, 0, 0
    if type(head) == 'string' and #head == 32 then
      version = tonumber(string.sub(head, 1, 16)) or 0
      updated = tonumber(string.sub(head, 17, 32)) or 0
      bytes = redis.call('HSTRLEN', base .. name, 'data')
    end
    answer[#answer + 1] = {name, version, updated, left, bytes}
  end
end
if #gone > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('ZREM', KEYS[2], unpack(gone))
end
return answer
