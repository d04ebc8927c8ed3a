-- Takes a lock, or says who holds it and stands in the queue.
-- KEYS[1] the lock: token (32 bytes), fence (16 digits), since in µs (16 digits), holder
-- KEYS[2] the shard's last fence
-- KEYS[3] the tombstone of the token
-- KEYS[4] the shard's index of held locks by expiry in ms
-- KEYS[5] the queue: tokens by ticket
-- ARGV[1] the token
-- ARGV[2] the ttl in ms
-- ARGV[3] the lowest fence that the caller accepts
-- ARGV[4] the lock's member in the index
-- ARGV[5] the holder, opaque here
-- ARGV[6] empty if it does not wait, else its client (16 hex), whether the client hears its channel
--         (1 digit), its priority (3 digits), the ticket that the queue gave it before, or 0 (16
--         digits), the head start of its priority in µs (16 digits)
-- Answer: {1, fence} granted; {0, ticket, pttl, fence, since, holder} held by another;
--         {3, ticket} free, and the turn of another; {2} the token was given up before and is
--         refused. A ticket of 0: it does not stand in the queue.
-- Safe to run twice: the same token obtains its own lock again and keeps its fence, or keeps its
-- place, and a token with a tombstone obtains nothing, however late it arrives.
local ttl = tonumber(ARGV[2])
local waited = redis.call('EXISTS', KEYS[3], KEYS[5]) > 0
if waited and redis.call('EXISTS', KEYS[3]) == 1 then
  return {2}
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lock = redis.call('GET', KEYS[1])
if lock and string.sub(lock, 1, 32) == ARGV[1] then
  -- The answer to an earlier run was lost.
  ttl = math.max(redis.call('PTTL', KEYS[1]), ttl)
  redis.call('PEXPIRE', KEYS[1], ttl)
  redis.call('ZADD', KEYS[4], string.format('%.0f', now / 1000 + ttl), ARGV[4])
  return {1, tonumber(string.sub(lock, 33, 48))}
end
local ticket = 0
if ARGV[6] ~= '' and (lock or waited) then
  local client, flags = string.sub(ARGV[6], 1, 16), string.sub(ARGV[6], 17, 20)
  local known, start = tonumber(string.sub(ARGV[6], 21, 36)), tonumber(string.sub(ARGV[6], 37))
  ticket = enter(KEYS[5], ARGV[1], client, known, start, ttl, flags, ARGV[5], now)
end
if lock then
  local fence, since = string.sub(lock, 33, 48), string.sub(lock, 49, 64)
  local left = redis.call('PTTL', KEYS[1])
  return {0, ticket, left, tonumber(fence), tonumber(since), string.sub(lock, 65)}
end
if waited then
  local stand, beats = around(KEYS[5])
  local first = turn(KEYS[5], stand, beats, ARGV[1], 'none', now)
  if first and first ~= ARGV[1] then
    return {3, ticket}
  end
  leave(KEYS[5], stand, ARGV[1])
end
local least = tonumber(ARGV[3])
return {1, grant(KEYS[1], KEYS[2], KEYS[4], ARGV[4], ARGV[1], ttl, least, ARGV[5], now)}
