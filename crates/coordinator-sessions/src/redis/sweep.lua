-- Ends the sessions in an index whose user or company was revoked.
-- KEYS[1] the index; named with a key that is never there, so that a slot that
--         moves is refused
-- ARGV[1] what it is called in its shard
-- ARGV[2] how many of its members to pass over
-- ARGV[3] how many to look at
-- Answer: {how many were ended, how many were left, whether there are more}
-- Safe to run twice: the second finds those gone.
local base = string.sub(KEYS[1], 1, -#ARGV[1] - 1)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local from, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local ids = redis.call('ZRANGE', KEYS[1], from, from + count - 1)
local ended = 0
for _, id in ipairs(ids) do
  local s = passing(base .. 's:' .. id)
  local gone, reason = false, ''
  if s then
    gone, reason = revoked(base, s)
  end
  if gone then
    bury(base, id, s, 'invalidated', reason, now)
    ended = ended + 1
  end
end
return {ended, #ids - ended, #ids == count and 1 or 0}
