-- Takes a lock, or says who holds it and stands in the queue.
-- KEYS[1] the lock: token (32 bytes), fence (16 digits), since in µs (16 digits), holder
-- KEYS[2] the shard's last fence
-- KEYS[3] the tombstone of the token
-- KEYS[4] the shard's index of held locks by expiry in ms
-- KEYS[5] the queue: tokens by ticket
-- KEYS[6] the records of who stands in the queue
-- KEYS[7] the shard's heartbeats
-- ARGV[1] the token
-- ARGV[2] the ttl in ms
-- ARGV[3] the lowest fence that the caller accepts
-- ARGV[4] the lock's member in the index
-- ARGV[5] the holder, opaque here
-- ARGV[6] the client, empty if it does not wait
-- ARGV[7] the ticket that the queue gave the token before, or 0
-- ARGV[8] the head start of its priority in µs
-- ARGV[9] whether the client hears its channel (1 digit), its priority (3 digits)
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
  local record = redis.call('HGET', KEYS[6], ARGV[1])
  if record and redis.call('ZSCORE', KEYS[5], ARGV[1]) then
    ticket = tonumber(string.sub(record, 17, 32))
    -- Full memory refuses no write that follows another: who waits shall not lose its place for it.
    redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', string.format('%.0f', now - ALIVE))
    if string.sub(record, 49, 49) ~= string.sub(ARGV[9], 1, 1) then
      record = string.sub(record, 1, 48) .. ARGV[9] .. string.sub(record, 53)
      redis.call('HSET', KEYS[6], ARGV[1], record)
    end
  else
    local last = tonumber(redis.call('HGET', KEYS[6], 'last') or '0')
    ticket = tonumber(ARGV[7])
    if ticket == 0 then
      ticket = math.max(now, last + 1)
    end
    redis.call('ZADD', KEYS[5], string.format('%.0f', ticket - ARGV[8]), ARGV[1])
    record = ARGV[6] .. string.format('%016.0f%016.0f', ticket, ttl)
    record = record .. ARGV[9] .. ARGV[5]
    last = string.format('%.0f', math.max(ticket, last))
    redis.call('HSET', KEYS[6], ARGV[1], record, 'last', last)
    redis.call('PEXPIRE', KEYS[5], QUEUE_TTL)
    redis.call('PEXPIRE', KEYS[6], QUEUE_TTL)
  end
  redis.call('ZADD', KEYS[7], string.format('%.0f', now), ARGV[6])
  redis.call('PEXPIRE', KEYS[7], QUEUE_TTL)
end
if lock then
  local fence, since = string.sub(lock, 33, 48), string.sub(lock, 49, 64)
  local left = redis.call('PTTL', KEYS[1])
  return {0, ticket, left, tonumber(fence), tonumber(since), string.sub(lock, 65)}
end
if waited then
  local first = turn(KEYS[5], KEYS[6], KEYS[7], ARGV[1], 'none', now)
  if first and first ~= ARGV[1] then
    return {3, ticket}
  end
  leave(KEYS[5], KEYS[6], ARGV[1])
end
local least = tonumber(ARGV[3])
return {1, grant(KEYS[1], KEYS[2], KEYS[4], ARGV[4], ARGV[1], ttl, least, ARGV[5], now)}
