-- Gives back what an admission took, or a part of it, if it still counts.
-- KEYS[1] the limit's state
-- KEYS[2] the mark of the refund
-- KEYS[3] the mark of the call's id, if it had one and all of it is given back: it is forgotten
-- ARGV[1] the limit's kind: s, g or f
-- ARGV[2] its span in µs
-- ARGV[3] its step
-- ARGV[4] how much to give back, at most
-- ARGV[5] the receipt: a log's time and era; GCRA's arrival time, birth and what was given back
--         till then; a fixed window's beginning, era and the admission's number
-- ARGV[6] its second number
-- ARGV[7] its third number
-- Answer: {given}; 0: it counts no more, or can no longer be told from what came after it.
-- Safe to run twice: the mark remembers what was given.
local span, step, amount = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at, era, back = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local before = redis.call('GET', KEYS[2])
if before then
  return {tonumber(before)}
end
local time = redis.call('TIME')
local t = time[1] * 1000000 + time[2]
local given, keep = 0, span * 9 / 8
if ARGV[1] == 's' then
  given = give_back(KEYS[1], t, span, step, amount, at, era)
  if given == 0 then
    return {0}
  end
elseif ARGV[1] == 'g' then
  local look, _, _, worth, put = gcra()
  local used, _, now, us, part, returned, birth = look(KEYS[1], t, span, step)
  -- Whatever was given back since may have been older: it is taken for that.
  local left = at - (returned - back) - now
  given = math.max(math.min(amount, used, math.floor(left * step / span)), 0)
  if given == 0 or era ~= birth then
    return {0}
  end
  keep = math.max(keep, at - now)
  local less, rest = worth(given, span, step)
  us, part = us - less, part - rest
  if part < 0 then
    us, part = us - 1, part + step
  end
  put(KEYS[1], us, part, step, now, returned + less + 1, birth)
else
  local look, _, put = fixed()
  local used, _, now, start, known, number = look(KEYS[1], t, span)
  if used == 0 or start ~= at or era ~= known then
    return {0}
  end
  given = math.min(amount, used)
  put(KEYS[1], span, start, used - given, now, known, number)
end
if KEYS[3] then
  redis.call('DEL', KEYS[3])
end
redis.call('SET', KEYS[2], given, 'PX', math.ceil((keep + SKEW) / 1000) + 1)
return {given}
