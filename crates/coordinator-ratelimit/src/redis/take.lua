-- Takes a cost from one sliding window log if it fits, and says when there is room. It is
-- `take_all` for what is asked nearly always, without what that takes for more than one limit.
-- KEYS[1] the log
-- KEYS[2] the count of its denials
-- ARGV[1] the limit
-- ARGV[2] the span in µs
-- ARGV[3] the granule in µs; 0 for none
-- ARGV[4] the cost
-- ARGV[5] how many denials the caller has answered by itself; -1: record none
-- Answer: as that of `take_all` for one limit; without a receipt where it is denied.
-- Safe to run twice: it takes again, and is sent once. A denial takes nothing.
local time = redis.call('TIME')
local t = time[1] * 1000000 + time[2]
local limit, span, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local head = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
local base, total, last, first, first_at, era, now, gone = 0, 0, 0, 0, 0, 0, t, false
local look, rate, take
if head then
  local clock
  base, total, last, first, first_at, era, clock = struct.unpack('<ddddddd', head)
  if clock >= t or base > TOTAL or first_at <= t - span then
    local _
    look, rate, take = log()
    _, _, now, head, base, total, last, first, first_at, era, gone = look(KEYS[1], t, limit, span)
  end
end
local taken = 0
if total - base + cost <= limit then
  taken = cost
  if not take then
    look, rate, take = log()
  end
  total, last, first, first_at = take(KEYS[1], cost, span, tonumber(ARGV[3]), now, head, base,
    total, last, first, first_at, era, gone)
end
if ARGV[5] ~= '-1' and (taken == 0 or ARGV[5] ~= '0') then
  -- An admission tells of the denials that were answered before it.
  local more = tonumber(ARGV[5]) - (taken == 0 and 0 or 1)
  denied(KEYS[1], KEYS[2], more, 'denied', t, span, limit, cost, total - base)
end
local need, retry = total + cost - limit, 0
if cost > limit then
  retry = -1
elseif need > base and need <= first then
  retry = first_at + span - t
elseif need > base then
  if not rate then
    look, rate, take = log()
  end
  retry = rate(KEYS[1], cost, limit, span, t, base, total, last, first, first_at)
end
local reset = total > base and last + span - t or 0
if taken == 0 then
  return {0, 0, total - base, retry, reset}
end
return {1, taken, total - base, retry, reset, last, era, 0}
