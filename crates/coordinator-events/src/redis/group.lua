-- Shared: what a group keeps of an event that it took. A delivery is its number, the consumer that
-- has it, why the one before failed, and the event itself, so that trimming takes no work away.
-- Safe to run twice: it changes nothing.
local function wrap(deliveries, consumer, reason, event)
  return struct.pack('<I4ss', deliveries, consumer, reason) .. event
end

-- The number, the consumer, the reason and the event. What is broken is an event as it is: whoever
-- gets it finds it unreadable, and nothing else has to wait behind it.
local function unwrap(body)
  local sound, deliveries, consumer, reason, at = pcall(struct.unpack, '<I4ss', body)
  if not sound then
    return 0, '', '', body
  end
  return deliveries, consumer, reason, string.sub(body, at)
end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Keys of a group last as long as somebody works in it.
local function keep(keys, ttl)
  for i = 2, #keys do
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
local function held(keys, id, number)
  local body = redis.call('HGET', keys[4], id)
  if not body then
    return nil
  end
  local deliveries, consumer, reason, event = unwrap(body)
  return deliveries == number and {consumer = consumer, reason = reason, event = event} or nil
end

local function bury(keys, id, deliveries, consumer, reason, event, now)
  redis.call('HSET', keys[6], id, wrap(deliveries, consumer, reason, event))
  redis.call('ZADD', keys[5], now, id)
  redis.call('ZREM', keys[3], id)
  redis.call('HDEL', keys[4], id)
end

local function earlier(id, other)
  local epoch, number = epoch_and_number(id)
  local epoch2, number2 = epoch_and_number(other)
  return epoch < epoch2 or epoch == epoch2 and number < number2
end
