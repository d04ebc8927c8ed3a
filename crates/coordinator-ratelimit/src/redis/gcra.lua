-- Shared: GCRA, a string of six doubles: the theoretical arrival time in µs and its fraction, of
-- which so many make a µs; the high-water mark of the clock; what was ever given back, in µs; and
-- its birth, which changes where times do.
-- A unit is worth `span / step` µs.
-- Safe to run twice: as the log.
local function gcra()
  local function worth(units, span, step)
    local parts = units * (span % step)
    return units * math.floor(span / step) + math.floor(parts / step), parts % step
  end

  local function put(key, us, part, step, clock, back, birth)
    redis.call('SET', key, struct.pack('<dddddd', us, part, step, clock, back, birth), 'PX',
      math.ceil((us - clock + SKEW) / 1000) + 1)
  end

  local function look(key, t, span, step, peeks)
    local state, now = redis.call('GET', key), t
    local us, part, clock, back, birth = t, 0, 0, 0, t
    if state then
      local old
      us, part, old, clock, back, birth = struct.unpack('<dddddd', state)
      if old ~= step then
        us, part = us + (part > 0 and 1 or 0), 0
      end
      local ahead = clock - t
      if ahead > SKEW and peeks then
        t = clock
      elseif ahead > SKEW then
        us, clock, birth = us - ahead, t, birth + 1
        put(key, us, part, step, clock, back, birth)
      end
      now = math.max(t, clock)
      if us < now then
        us, part = now, 0
      end
    end
    -- How many units that is: as near as doubles come, then exactly.
    local left = us - now
    local used = math.max(math.floor(left * step / span) - 2, 0)
    local all, rest = worth(used, span, step)
    while all < left or all == left and rest < part do
      used = used + 1
      all, rest = worth(used, span, step)
    end
    return used, t, now, us, part, back, birth
  end

  local function rate(used, cost, limit, span, step, at, us, part)
    local retry = 0
    if used + cost > limit and cost <= limit then
      local room, rest = worth(limit - cost, span, step)
      retry = us - room + (part > rest and 1 or 0) - at
    end
    return retry, used > 0 and us + (part > 0 and 1 or 0) - at or 0
  end

  local function take(key, cost, span, step, now, us, part, back, birth)
    local more, parts = worth(cost, span, step)
    us, part = us + more, part + parts
    if part >= step then
      us, part = us + 1, part - step
    end
    put(key, us, part, step, now, back, birth)
    return us, part
  end
  return look, rate, take, worth, put
end
