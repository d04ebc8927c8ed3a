-- Forgets what a limit has used and whom it has denied.
-- KEYS[1] the limit's state
-- KEYS[2] the count of its denials
-- KEYS[3] the mark that it was near
-- ARGV[1] the limit's kind: s, g or f
-- ARGV[2] its span in µs
-- ARGV[3] its step
-- Answer: {used}, what was used until now
-- Safe to run twice: what is forgotten is forgotten.
local time = redis.call('TIME')
local t, span, step = time[1] * 1000000 + time[2], tonumber(ARGV[2]), tonumber(ARGV[3])
local used
if ARGV[1] == 's' then
  local look = log()
  local head, total, era, clock, _
  used, _, _, head, _, total, _, _, _, era, _, clock = look(KEYS[1], t, 0, span)
  if head then
    -- Its clock and totals go on, so that nothing admitted before is taken for what comes.
    redis.call('ZREMRANGEBYRANK', KEYS[1], 1, -1)
    redis.call('ZREM', KEYS[1], head)
    redis.call('ZADD', KEYS[1], 0, struct.pack('<ddddddd', total, total, 0, total, 0, era + 1,
      clock))
    redis.call('PEXPIRE', KEYS[1], math.ceil((span * 9 / 8 + SKEW) / 1000) + 1)
  end
elseif ARGV[1] == 'g' then
  local look, _, _, _, put = gcra()
  local now, back, birth, _
  used, _, now, _, _, back, birth = look(KEYS[1], t, span, step)
  if used > 0 then
    put(KEYS[1], now, 0, step, now, back, birth + 1)
  end
else
  local look, _, put = fixed()
  local now, start, era, number, _
  used, _, now, start, era, number = look(KEYS[1], t, span)
  if used > 0 then
    put(KEYS[1], span, start, 0, now, era + 1, number)
  end
end
redis.call('DEL', KEYS[2], KEYS[3])
return {used}
