-- Shared: the sliding window log, a sorted set.
-- Each member is the running total of all admitted cost, its score the time of the admission in µs,
-- strictly rising. Rank 0, with score 0, is the head: the baseline, which is the total that has
-- left the window; the last total and its time; the first total in the window and its time; the
-- era, which changes where times do; the high-water mark of the clock. So what is used is the last
-- total less the baseline. (Seven doubles, little-endian.)
-- Safe to run twice: looking only moves times back where the server's clock was set back. Taking
-- takes again: its callers ask for an id first, or are sent once.

-- By how many µs a limit may be ahead of the server's clock before its times are moved back.
local SKEW = 1000000
-- A baseline above this is counted anew from 0: three bytes hold the totals in a small set.
local TOTAL = 4000000

local function log()
  -- A log as it stands at t: what is used, t as its own clock has it and when an admission would
  -- be, then its head and what that says, and what has left the window since: false for nothing,
  -- the total of the one entry that has, or true.
  local function look(key, t, limit, span, peeks)
    local head = redis.call('ZRANGE', key, 0, 0)[1]
    if not head then
      return 0, t, t, false, 0, 0, 0, 0, 0, 0, false, 0
    end
    local base, total, last, first, first_at, era, clock = struct.unpack('<ddddddd', head)
    local now, gone = t, false
    if clock >= t or base > TOTAL then
      local ahead = clock - t > SKEW
      if ahead and peeks then
        t = clock
      elseif ahead or base > TOTAL and base > 4 * limit and not peeks then
        -- Written anew: its times earlier, its totals counted from the baseline.
        local all, shift = redis.call('ZRANGE', key, 1, -1, 'WITHSCORES'), ahead and clock - t or 0
        head = struct.pack('<ddddddd', 0, total - base, math.max(last - shift, 0), first - base,
          math.max(first_at - shift, 0), ahead and era + 1 or era, clock - shift)
        local ttl = ahead and math.ceil((span * 9 / 8 + SKEW) / 1000) + 1 or redis.call('PTTL', key)
        redis.call('DEL', key)
        redis.call('ZADD', key, 0, head)
        for i = 1, #all, 2 do
          redis.call('ZADD', key, all[i + 1] - shift, all[i] - base)
        end
        redis.call('PEXPIRE', key, math.max(ttl, 1))
        base, total, last, first, first_at, era, clock = struct.unpack('<ddddddd', head)
      end
      now = math.max(t, clock + 1)
    end
    local cut = now - span
    if first_at <= cut then
      gone = true
      if last <= cut then
        base = total
      elseif total > base then
        local pair = redis.call('ZRANGE', key, 2, 2, 'WITHSCORES')
        if tonumber(pair[2]) > cut then
          -- In a steady flow it is one alone, and its total is known.
          base, gone, first, first_at = first, first, tonumber(pair[1]), tonumber(pair[2])
        else
          local left = redis.call('ZCOUNT', key, 1, cut)
          pair = redis.call('ZRANGE', key, left, left + 1, 'WITHSCORES')
          base, first, first_at = tonumber(pair[1]), tonumber(pair[3]), tonumber(pair[4])
        end
      end
    end
    return total - base, t, now, head, base, total, last, first, first_at, era, gone, clock
  end

  -- When a log has room for another cost, and when all of it is free; in µs from now.
  local function rate(key, cost, limit, span, at, base, total, last, first, first_at)
    local need, retry = total + cost - limit, 0
    if need > base and cost <= limit then
      if first < need then
        -- The first entry that reaches it.
        local low, high = 1, redis.call('ZCARD', key) - 1
        while low < high do
          local middle = math.floor((low + high) / 2)
          if tonumber(redis.call('ZRANGE', key, middle, middle)[1]) >= need then
            high = middle
          else
            low = middle + 1
          end
        end
        first_at = tonumber(redis.call('ZRANGE', key, low, low, 'WITHSCORES')[2])
      end
      retry = first_at + span - at
    end
    return retry, total > base and last + span - at or 0
  end

  -- Admits a cost; the total, its time, the first total and its time.
  local function take(key, cost, span, step, now, head, base, total, last, first, first_at, era,
      gone)
    local merges = step > 0 and total > base and math.floor(last / step) == math.floor(now / step)
    if total == base or merges and first == total then
      first, first_at = total + cost, now
    end
    local new = struct.pack('<ddddddd', base, total + cost, now, first, first_at, era, now)
    -- Full memory refuses no write that follows another: so this one comes first.
    redis.call('ZADD', key, 0, new, now, total + cost)
    if gone and gone ~= true then
      redis.call('ZREM', key, head, gone, merges and total or head)
    elseif merges then
      redis.call('ZREM', key, head, total)
    elseif head then
      redis.call('ZREM', key, head)
    end
    if gone == true then
      redis.call('ZREMRANGEBYSCORE', key, 1, now - span)
    end
    -- An eighth longer than it must live, so that not every admission says so.
    if not head or math.floor(now * 8 / span) ~= math.floor(last * 8 / span) then
      redis.call('PEXPIRE', key, math.ceil((span * 9 / 8 + SKEW) / 1000) + 1)
    end
    return total + cost, now, first, first_at
  end
  return look, rate, take
end
