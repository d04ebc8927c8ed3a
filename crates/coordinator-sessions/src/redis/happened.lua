-- Reads what happened to the sessions of a shard, the oldest first.
-- KEYS[1] the shard's stream
-- ARGV[1] after which entry; empty for where ARGV[2] begins, `$` for the newest alone
-- ARGV[2] from how many ms ago on
-- ARGV[3] how many
-- Answer: {count, {id in ms, its sequence, event, session, user, company, crew, version, reason},
--         …}
-- Safe to run twice: it changes nothing.
local from = '(' .. ARGV[1]
if ARGV[1] == '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  from = string.format('%.0f', math.max(now - tonumber(ARGV[2]), 0))
end
local found
if ARGV[1] == '$' then
  found = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
else
  found = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[3])
end
local answer = {#found}
for i, entry in ipairs(found) do
  local ms, number = string.match(entry[1], '^(%d+)-(%d+)$')
  local f = entry[2]
  answer[i + 1] = {tonumber(ms), tonumber(number), f[2], f[4], f[6], f[8], f[10], tonumber(f[12]),
    f[14]}
end
return answer
