-- Shared: the queue of one name, for the steps that take a lock, give it up or wait for it.
-- Who waits stands in a sorted set by ticket, less a head start for its priority. A hash holds a
-- record for each (client 16, ticket 16, ttl in ms 16, hears 1, priority 3, holder), under `turn`
-- since when it is whose turn, and under `last` the last ticket.
-- The clients' heartbeats stand in a sorted set of the shard, in µs of the server's time.
-- Safe to run twice: who stands in the queue keeps its place, who has left has left, and a turn
-- that was given stays until it lapses. A grant is not: its callers compare the token first.

-- How long a turn is kept for a waiter that was told of it, and for how long after its last
-- heartbeat a client counts as alive, if it is not asked for and if it could not be told; in µs.
local CLAIM, ALIVE, SILENT = 600000, 10000000, 1000000
-- How long a queue outlives the last sign of its waiters, in ms.
local QUEUE_TTL = 60000

-- Tells a client that it is a token's turn; whether it may have been heard.
local function tell(beats, client, token)
  local channel = string.sub(beats, 1, -6) .. 'wake:' .. client
  local heard = redis.pcall('SPUBLISH', channel, token)
  if type(heard) == 'table' then
    -- Servers before 7.0 have no sharded channels; the client listens at the node of this slot, so
    -- this node's count is whole.
    heard = redis.pcall('PUBLISH', channel, token)
  end
  -- Where no channel is allowed, nobody knows.
  return type(heard) == 'table' or heard > 0
end

-- The keys around a queue, which only those need who find one or stand in it: the records, the
-- heartbeats, and what the keys of the shard begin with.
local function around(queue)
  local at = string.find(queue, '}:queue:', 1, true)
  local base = string.sub(queue, 1, at + 1)
  return base .. 'stand:' .. string.sub(queue, at + 8), base .. 'beats', base
end

-- Stands in the queue, or keeps its place; the ticket. `flags` are whether its client hears
-- (1 digit) and its priority (3 digits).
local function enter(queue, token, client, ticket, head_start, ttl, flags, holder, now)
  local stand, beats = around(queue)
  local record = redis.call('HGET', stand, token)
  if record and redis.call('ZSCORE', queue, token) then
    ticket = tonumber(string.sub(record, 17, 32))
    -- Full memory refuses no write that follows another: who waits shall not lose its place for it.
    redis.call('ZREMRANGEBYSCORE', beats, '-inf', string.format('%.0f', now - ALIVE))
    if string.sub(record, 49, 49) ~= string.sub(flags, 1, 1) then
      record = string.sub(record, 1, 48) .. flags .. string.sub(record, 53)
      redis.call('HSET', stand, token, record)
    end
  else
    local last = tonumber(redis.call('HGET', stand, 'last') or '0')
    if ticket == 0 then
      ticket = math.max(now, last + 1)
    end
    redis.call('ZADD', queue, string.format('%.0f', ticket - head_start), token)
    record = client .. string.format('%016.0f%016.0f', ticket, ttl) .. flags .. holder
    last = string.format('%.0f', math.max(ticket, last))
    redis.call('HSET', stand, token, record, 'last', last)
    redis.call('PEXPIRE', queue, QUEUE_TTL)
    redis.call('PEXPIRE', stand, QUEUE_TTL)
  end
  redis.call('ZADD', beats, string.format('%.0f', now), client)
  redis.call('PEXPIRE', beats, QUEUE_TTL)
  return ticket
end

-- Steps out of the queue; whether it stood there.
local function leave(queue, stand, token)
  if redis.call('ZREM', queue, token) == 0 then
    return false
  end
  redis.call('HDEL', stand, token)
  if redis.call('ZCARD', queue) == 0 then
    redis.call('DEL', stand)
  end
  return true
end

-- Whose turn it is, and makes it so: a token, or nil where nobody who lives waits. The token `me`
-- and the client `here`, which asks, live and need not be told; where there is none it is `none`.
local function turn(queue, stand, beats, me, here, now)
  local late
  local set = redis.call('HGET', stand, 'turn')
  if set and redis.call('ZSCORE', queue, string.sub(set, 17)) then
    local since = tonumber(string.sub(set, 1, 16))
    if now >= since and now - since < CLAIM then
      return string.sub(set, 17)
    end
    -- It did not come. Whoever has not been heard of since it was told is dead.
    late = string.sub(set, 17)
    redis.call('ZREMRANGEBYSCORE', beats, '-inf', string.format('(%.0f', since))
  end
  local chosen, passed
  local at = 0
  while not chosen do
    local token = redis.call('ZRANGE', queue, at, at)[1]
    if not token then
      break
    end
    local record = redis.call('HGET', stand, token) or ''
    local client = string.sub(record, 1, 16)
    local beat = tonumber(redis.call('ZSCORE', beats, client))
    if token == me or client == here then
      chosen = token
    elseif not beat or now - beat > ALIVE then
      leave(queue, stand, token)
    elseif token ~= late and (string.sub(record, 49, 49) == '0' or tell(beats, client, token)) then
      chosen = token
    elseif now - beat > SILENT then
      leave(queue, stand, token)
    else
      -- It keeps its place; if nobody else lives it is given the turn all the same.
      passed = passed or {token, client}
      at = at + 1
    end
  end
  if passed and not chosen then
    chosen = passed[1]
    tell(beats, passed[2], chosen)
  end
  if chosen then
    redis.call('HSET', stand, 'turn', string.format('%016.0f', now) .. chosen)
  end
  return chosen
end

-- Grants a lock that nobody holds; its fence.
local function grant(lock, fence, held, member, token, ttl, least, holder, now)
  local new = math.max(now, least)
  -- The first write: it meets a memory that is full while nothing has changed yet.
  local last = redis.call('SET', fence, string.format('%.0f', new), 'GET')
  if last and tonumber(last) >= new then
    -- The clock was set back, or two grants fell into one microsecond.
    new = tonumber(last) + 1
    redis.call('SET', fence, string.format('%.0f', new))
  end
  redis.call('ZADD', held, string.format('%.0f', now / 1000 + ttl), member)
  local stamps = string.format('%016.0f%016.0f', new, now)
  redis.call('SET', lock, token .. stamps .. holder, 'PX', ttl)
  if now % 16 == 0 then
    redis.call('ZREMRANGEBYSCORE', held, '-inf', string.format('%.0f', now / 1000))
  end
  return new
end
