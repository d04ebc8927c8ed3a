-- Gives a lock up and hands the turn on, or steps out of the queue; also cleans up after an acquire
-- of unknown outcome. A release may bring along the claim of the next in line of the same process.
-- KEYS[1] the lock
-- KEYS[2] the tombstone of the token
-- KEYS[3] the shard's index of held locks
-- KEYS[4] the queue
-- ARGV[1] the token
-- ARGV[2] the ttl of the tombstone in ms
-- ARGV[3] the lock's member in the index
-- ARGV[4] the client; if it is the turn of one of its waiters, that one is granted the lock
-- ARGV[5] the lowest fence that the client accepts
-- ARGV[6] the claim that is brought along, or empty: token (32 hex), whether its client hears (1
--         digit), its priority (3 digits), ttl in ms (16 digits), holder
-- Answer: {1, fence, ticket, token} released now and granted to that waiter of the client;
--         {1, 0, ticket} released, now or by an earlier run; {0, 0, 0} the lock was gone or is
--         another's. A ticket but 0 is the place of the claim that was brought along.
-- Safe to run twice: the tombstone remembers the answer, and only a lock that bears the token is
-- deleted. Whoever was granted the lock by an answer that got lost obtains it by its own acquire.
local lock = redis.call('GET', KEYS[1])
local mine = lock and string.sub(lock, 1, 32) == ARGV[1]
local passes, follows
if mine then
  redis.call('ZREM', KEYS[3], ARGV[3])
  redis.call('DEL', KEYS[1])
  -- Full memory refuses no write that follows another: the deletion lets this one pass.
  redis.call('SET', KEYS[2], 'r', 'PX', ARGV[2])
  passes = redis.call('EXISTS', KEYS[4]) == 1
  if ARGV[6] ~= '' then
    local _, _, base = around(KEYS[4])
    follows = redis.call('EXISTS', base .. 'gone:' .. string.sub(ARGV[6], 1, 32)) == 0
  end
else
  -- It may have been its turn.
  passes = leave(KEYS[4], (around(KEYS[4])), ARGV[1]) and not lock
end
local ticket = 0
if passes or follows then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local stand, beats, base = around(KEYS[4])
  local first, ttl = string.sub(ARGV[6], 1, 32), tonumber(string.sub(ARGV[6], 37, 52))
  local holder = string.sub(ARGV[6], 53)
  local here = not passes
  if passes then
    if follows then
      local flags = string.sub(ARGV[6], 33, 36)
      ticket = enter(KEYS[4], first, ARGV[4], 0, 0, ttl, flags, holder, now)
    end
    first = turn(KEYS[4], stand, beats, 'none', mine and ARGV[4] or 'none', now)
    local record = first and redis.call('HGET', stand, first)
    here = mine and record and string.sub(record, 1, 16) == ARGV[4]
    if here then
      leave(KEYS[4], stand, first)
      ttl, holder = tonumber(string.sub(record, 33, 48)), string.sub(record, 53)
    end
  end
  if here then
    local fence, least = base .. 'fence', tonumber(ARGV[5])
    fence = grant(KEYS[1], fence, KEYS[3], ARGV[3], first, ttl, least, holder, now)
    return {1, fence, ticket, first}
  end
end
if mine then
  return {1, 0, ticket}
end
local grave = redis.call('GET', KEYS[2])
if grave == 'r' then
  return {1, 0, 0}
end
if not grave then
  -- An acquire with this token may still be on its way: it shall find the tombstone. Refused when
  -- memory is full, but then so is the acquire.
  redis.pcall('SET', KEYS[2], 'x', 'PX', ARGV[2])
end
return {0, 0, 0}
