-- Looks at limits without taking from them.
-- KEYS[n] for each limit its state and the count of its denials
-- ARGV[n] for each limit its kind (s, g, f, or c for slots), the limit, its span in µs, its step,
--         the cost
-- Answer: {count, …}, and for each limit its denials, used, retry in µs (0: the cost fits now, -1:
--         it never will) and reset in µs
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local t = time[1] * 1000000 + time[2]
local count = #KEYS / 2
local answer = {count}
for i = 1, count do
  local key, a = KEYS[2 * i - 1], 5 * i - 4
  local kind, limit, span, step, cost = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]),
    tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local used, retry, reset
  if kind == 's' then
    local look, rate = log()
    local at, _, base, total, last, first, first_at
    used, at, _, _, base, total, last, first, first_at = look(key, t, limit, span, true)
    retry, reset = rate(key, cost, limit, span, at, base, total, last, first, first_at)
  elseif kind == 'g' then
    local look, rate = gcra()
    local at, _, us, part
    used, at, _, us, part = look(key, t, span, step, true)
    retry, reset = rate(used, cost, limit, span, step, at, us, part)
  elseif kind == 'c' then
    used, retry, reset = redis.call('ZCOUNT', key, t + 1, '+inf'), 0, 0
    if used >= limit and used > 0 then
      local first = redis.call('ZRANGEBYSCORE', key, t + 1, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      retry = first[2] - t
    end
  else
    local look, rate = fixed()
    local at, _, start
    used, at, _, start = look(key, t, span, true)
    retry, reset = rate(used, cost, limit, span, at, start)
  end
  answer[4 * i - 2] = tonumber(redis.call('GET', KEYS[2 * i]) or '0')
  answer[4 * i - 1], answer[4 * i], answer[4 * i + 1] = used, cost > limit and -1 or retry, reset
end
return answer
