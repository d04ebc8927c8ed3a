-- Shared: what is recorded of denials, beside the limits that denied.
-- Safe to run twice: what is counted are answers, and one more answer is one more count.

-- Writes a record and wakes who listens for it; full memory shall not turn an answer into an error.
-- A shard keeps about 10,000 records for a week, and ranks 1,000 offenders for a day.
local function record(key, event, t, span, limit, cost, used, count, weight)
  local base, name = string.match(key, '^(.-}:)%l+:(.*)$')
  local first = (weight == 0 or weight == count) and 1 or 0
  redis.pcall('XADD', base .. 'violations', 'MAXLEN', '~', 10000, '*', 'e', event, 'w', name,
    'n', count, 'l', limit, 'u', used, 'c', cost, 's', span, 'f', first)
  redis.pcall('PEXPIRE', base .. 'violations', 604800000)
  if weight > 0 and type(redis.pcall('ZINCRBY', base .. 'top', weight, name)) ~= 'table' then
    redis.call('ZREMRANGEBYRANK', base .. 'top', 0, -1001)
    if redis.call('PTTL', base .. 'top') < 0 then
      redis.call('PEXPIRE', base .. 'top', 86400000)
    end
    redis.call('ZADD', base .. 'latest', math.floor(t / 1000), name)
    redis.call('ZREMRANGEBYRANK', base .. 'latest', 0, -4001)
    redis.call('PEXPIRE', base .. 'latest', 86400000)
  end
  if type(redis.pcall('SPUBLISH', base .. 'alerts', event)) == 'table' then
    redis.pcall('PUBLISH', base .. 'alerts', event)
  end
end

-- Counts a denial and those that the caller answered by itself; the first in a span is recorded,
-- and then those with which the count reaches a power of two.
local function denied(key, counts, more, event, t, span, limit, cost, used)
  local count
  if more == 0 then
    count = redis.pcall('INCR', counts)
  else
    count = redis.pcall('INCRBY', counts, more + 1)
  end
  if type(count) ~= 'number' or more == 0 and math.frexp(count) ~= 0.5 then
    return
  end
  local before = count - more - 1
  local _, was = math.frexp(before)
  local _, is = math.frexp(count)
  if before == 0 then
    redis.call('PEXPIRE', counts, math.ceil(span / 1000) + 1)
    record(key, event, t, span, limit, cost, used, count, count)
  elseif was < is then
    -- Its weight is what came since the last record.
    record(key, event, t, span, limit, cost, used, count, count - 2 ^ (was - 1))
  end
end
