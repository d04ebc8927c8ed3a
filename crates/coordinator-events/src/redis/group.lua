-- Shared: what a group keeps of an event that it took. A delivery is its number, the token of the
-- take, the consumer that has it, why the one before failed, and the event itself, so that trimming
-- takes no work away.
-- Safe to run twice: it changes nothing.
local function wrap(w)
  return struct.pack('<I4c8ss', w.deliveries, w.token, w.consumer, w.reason) .. w.event
end

-- What is broken is an event as it is: whoever gets it finds it unreadable, and nothing else has to
-- wait behind it.
local NOBODY = string.rep('\0', 8)
local function unwrap(body)
  local sound, deliveries, token, consumer, reason, at = pcall(struct.unpack, '<I4c8ss', body)
  if not sound then
    return {deliveries = 0, token = NOBODY, consumer = '', reason = '', event = body}
  end
  local event = string.sub(body, at)
  return {deliveries = deliveries, token = token, consumer = consumer, reason = reason,
    event = event}
end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Keys of a group last as long as somebody works in it.
local function keep(keys, ttl)
  for i = 2, 6 do
    redis.call('PEXPIRE', keys[i], ttl)
  end
end

-- Refuses keys of a wrong type before anything is written.
local function sound(keys)
  redis.call('ZCARD', keys[3])
  redis.call('HLEN', keys[4])
  redis.call('ZCARD', keys[5])
  redis.call('HLEN', keys[6])
end

-- The work of a delivery, if it is the one that is under way.
local function held(keys, id, token)
  local body = redis.call('HGET', keys[4], id)
  local work = body and unwrap(body)
  return work and work.token == token and work or nil
end

-- Whether it is this very delivery that ended as a dead letter.
local function is_dead(keys, id, token)
  local body = redis.call('HGET', keys[6], id)
  return body and unwrap(body).token == token
end

local function bury(keys, id, work, now)
  redis.call('HSET', keys[6], id, wrap(work))
  redis.call('ZADD', keys[5], now, id)
  redis.call('ZREM', keys[3], id)
  redis.call('HDEL', keys[4], id)
end

local function earlier(id, other)
  local epoch, number = epoch_and_number(id)
  local epoch2, number2 = epoch_and_number(other)
  return epoch < epoch2 or epoch == epoch2 and number < number2
end

-- Of an entry of the stream: what was before it, and the event.
local function fields(entry)
  local before, event = '*', ''
  for i = 1, #entry[2], 2 do
    before = entry[2][i] == 'p' and entry[2][i + 1] or before
    event = entry[2][i] == 'e' and entry[2][i + 1] or event
  end
  return before, event
end
