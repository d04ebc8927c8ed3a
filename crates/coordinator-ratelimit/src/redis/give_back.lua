-- Shared: gives back a part of a log, if it can still be told from what came after it; how much.
-- Safe to run twice: it gives back twice. Its caller remembers what it gave.
local function give_back(key, t, span, step, amount, at, era)
  local look = log()
  local used, _, now, head, base, total, last, first, first_at, known, gone, clock =
    look(key, t, 0, span)
  if used == 0 or era ~= known or at <= now - span then
    return 0
  end
  local rank = redis.call('ZCOUNT', key, '-inf', '(' .. string.format('%.0f', at))
  local tail = redis.call('ZRANGE', key, rank, -1, 'WITHSCORES')
  -- What was merged with later ones is in the entry of the same granule.
  local found = tail[2] and tonumber(tail[2])
  if not found or #tail > 242
      or found ~= at and (step == 0 or math.floor(found / step) ~= math.floor(at / step)) then
    return 0
  end
  local less, since = base, 0
  if found ~= first_at then
    local before = redis.call('ZRANGE', key, rank - 1, rank - 1, 'WITHSCORES')
    less, since = tonumber(before[1]), tonumber(before[2])
  end
  local given = math.min(amount, tail[1] - less)
  redis.call('ZREMRANGEBYRANK', key, rank, -1)
  redis.call('ZREM', key, head)
  local from = tail[1] - given == less and 3 or 1
  if not tail[from] then
    last = since
  end
  if found == first_at then
    first, first_at = total - given, 0
    if tail[from] then
      first, first_at = tail[from] - given, tonumber(tail[from + 1])
    end
  end
  redis.call('ZADD', key, 0, struct.pack('<ddddddd', base, total - given, last, first, first_at,
    era, clock))
  for i = from, #tail, 2 do
    redis.call('ZADD', key, tail[i + 1], tail[i] - given)
  end
  if gone then
    redis.call('ZREMRANGEBYSCORE', key, 1, now - span)
  end
  redis.call('PEXPIRE', key, math.ceil((span * 9 / 8 + SKEW) / 1000) + 1)
  return given
end
