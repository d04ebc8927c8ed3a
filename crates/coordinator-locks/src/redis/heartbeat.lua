-- Says that a client lives, and looks for all its waiters of one shard whether it is their turn.
-- KEYS[1] the shard's heartbeats
-- KEYS[n] then for each waiter the lock, the queue and the records of who stands in it
-- ARGV[1] the client
-- ARGV[2] whether it hears its channel: 0 or 1
-- ARGV[n] then for each waiter its token
-- Answer: {count, status, …}; a status is 1 it waits, 2 the lock is its own or its to take,
--         0 it stands in the queue no more.
-- Safe to run twice: a heartbeat only ever prolongs, and whose turn it is stays so.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- Full memory refuses no write that follows another: who waits shall not lose its place for it.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ALIVE))
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], QUEUE_TTL)
local count = (#KEYS - 1) / 3
local answer = {count}
for i = 1, count do
  local key, queue, stand = KEYS[3 * i - 1], KEYS[3 * i], KEYS[3 * i + 1]
  local token = ARGV[i + 2]
  -- A key of a wrong type is not ours, and must not stop the others.
  local lock = redis.pcall('GET', key)
  local first
  if type(lock) == 'string' then
    first = string.sub(lock, 1, 32)
  elseif not lock then
    first = turn(queue, stand, KEYS[1], token, 'none', now)
  end
  local record = redis.call('HGET', stand, token)
  if first == token then
    answer[i + 1] = 2
  elseif not record or not redis.call('ZSCORE', queue, token) then
    answer[i + 1] = 0
  else
    answer[i + 1] = 1
    if string.sub(record, 49, 49) ~= ARGV[2] then
      record = string.sub(record, 1, 48) .. ARGV[2] .. string.sub(record, 50)
      redis.call('HSET', stand, token, record)
    end
  end
  redis.call('PEXPIRE', queue, QUEUE_TTL)
  redis.call('PEXPIRE', stand, QUEUE_TTL)
end
return answer
