-- Ends the sessions of a shard whose time is over, and says so once each.
-- KEYS[1] the shard's sessions by expiry; named with a key that is never there, so that a slot that
--         moves is refused
-- ARGV[1] how many at most
-- Answer: {how many expired, whether there are more, ms until the next at the earliest or -1}
-- Safe to run twice: the second finds those gone.
local base = string.sub(KEYS[1], 1, -2)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local ended = 0
redis.call('XLEN', base .. 'ev')
for _, id in ipairs(ids) do
  local s = passing(base .. 's:' .. id)
  if not s then
    -- It vanished before its time was told: evicted, deleted by hand, or broken.
    redis.call('ZREM', KEYS[1], id)
    announce(base, id, 'expired', {}, 'vanished')
    ended = ended + 1
  elseif s.expiry > now then
    redis.call('ZADD', KEYS[1], s.expiry, id)
  else
    -- Neither an epoch that cannot be read nor a broken index may be in the way of others.
    local told, gone, reason = pcall(revoked, base, s)
    gone = told and gone
    entomb(base, id, s, gone and 'invalidated' or 'expired', gone and reason or '', now)
    ended = ended + 1
  end
end
local next = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return {ended, #ids == tonumber(ARGV[1]) and 1 or 0, next and math.max(next - now, 0) or -1}
