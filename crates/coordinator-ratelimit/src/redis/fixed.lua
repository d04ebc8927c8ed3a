-- Shared: the fixed window, a string of five doubles: its beginning in µs, what is used in it, the
-- high-water mark of the clock, the era, and the number of its last admission.
-- Safe to run twice: as the log.
local function fixed()
  local function put(key, span, start, used, clock, era, number)
    redis.call('SET', key, struct.pack('<ddddd', start, used, clock, era, number), 'PX',
      math.ceil((start + span - clock + SKEW) / 1000) + 1)
  end

  local function look(key, t, span, peeks)
    local state = redis.call('GET', key)
    if not state then
      return 0, t, t, t - t % span, 0, 0
    end
    local start, used, clock, era, number = struct.unpack('<ddddd', state)
    if clock - t > SKEW and peeks then
      t = clock
    elseif clock - t > SKEW then
      start, clock, era = t - t % span, t, era + 1
      put(key, span, start, used, clock, era, number)
    end
    local now = math.max(t, clock)
    local begun = now - now % span
    return begun == start and used or 0, t, now, begun, era, number
  end

  local function rate(used, cost, limit, span, at, start)
    local left = start + span - at
    return used + cost > limit and cost <= limit and left or 0, used > 0 and left or 0
  end
  return look, rate, put
end
