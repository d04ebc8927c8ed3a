-- Takes from limits, from all of them or from none, and says when there is room.
-- KEYS[1] for each limit its state and the count of its denials
-- KEYS[n] then the mark of the call's id, if it has one
-- KEYS[n] then for each limit its policy's epoch, if the caller asks whether it still is that
-- ARGV[1] how many limits
-- ARGV[2] for how many ms the call's id is remembered; 0 without
-- ARGV[n] then for each limit its kind (s, g or f), the limit, its span in µs, its step, the cost,
--         how to take (0 if it fits, 1 what fits, 2 whether it fits or not, 3 if it fits, but
--         nobody is refused), from which use on it is near (0 for never), how many denials the
--         caller has answered by itself (-1: record none)
-- ARGV[n] then for each limit the epoch that the caller knows, if it asks
-- Answer: {1, …} taken, {0, …} denied, and for each limit taken, used, retry in µs (0: another of
--         this cost fits now, -1: it never will), reset in µs, and three numbers for the receipt;
--         {2, epoch, …} the policies have these epochs, and nothing was done.
-- Safe to run twice: with an id the first admission is told again and nothing is taken. Without one
-- it takes again, and is sent once. A denial takes nothing.
local count, t = tonumber(ARGV[1]), redis.call('TIME')
t = t[1] * 1000000 + t[2]
local known, once = before(KEYS, ARGV, count)
if known then
  return known
end
local states, takes, fits, s, g, f = {}, {}, true, nil, nil, nil
for i = 1, count do
  local key, a = KEYS[2 * i - 1], 8 * i - 5
  local kind, limit, span, step, cost = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]),
    tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local state
  if kind == 's' then
    s = s or {log()}
    state = {limit, span, step, cost, s[1](key, t, limit, span)}
  elseif kind == 'g' then
    g = g or {gcra()}
    state = {limit, span, step, cost, g[1](key, t, span, step)}
  else
    f = f or {fixed()}
    state = {limit, span, step, cost, f[1](key, t, span)}
  end
  local how, room = ARGV[a + 5], limit - state[5]
  if cost > room and how ~= '2' then
    cost = how == '1' and math.max(room, 0) or 0
    fits = fits and (cost > 0 or how == '3')
  end
  states[i], takes[i] = state, cost
end
local answer = {fits and 1 or 0}
for i = 1, count do
  local key, a, taken = KEYS[2 * i - 1], 8 * i - 5, fits and takes[i] or 0
  local limit, span, step, cost, used, at, now, x, y, z, last, first, first_at, era, gone =
    unpack(states[i])
  local kind, retry, reset = ARGV[a], nil, nil
  if kind == 's' then
    if taken > 0 then
      z, last, first, first_at = s[3](key, taken, span, step, now, x, y, z, last, first, first_at,
        era, gone)
    end
    retry, reset = s[2](key, cost, limit, span, at, y, z, last, first, first_at)
    x, y, z = last, era, 0
  elseif kind == 'g' then
    if taken > 0 then
      x, y = g[3](key, taken, span, step, now, x, y, z, last)
    end
    retry, reset = g[2](used + taken, cost, limit, span, step, at, x, y)
    y = last
  else
    if taken > 0 then
      z = z + 1
      f[3](key, span, x, used + taken, now, y, z)
    end
    retry, reset = f[2](used + taken, cost, limit, span, at, x)
  end
  used = used + taken
  local near, more = ARGV[a + 6], ARGV[a + 7]
  if more ~= '-1' and (takes[i] == 0 or more ~= '0') then
    local event = ARGV[a + 5] == '3' and 'shadow' or 'denied'
    more = tonumber(more) - (takes[i] == 0 and 0 or 1)
    denied(key, KEYS[2 * i], more, event, t, span, limit, cost, used)
  end
  if near ~= '0' and taken > 0 then
    approached(key, tonumber(near), used, taken, t, span, limit, cost)
  end
  local n = 7 * i - 5
  answer[n], answer[n + 1], answer[n + 2], answer[n + 3] = taken, used,
    cost > limit and -1 or retry, reset
  answer[n + 4], answer[n + 5], answer[n + 6] = x, y, z
end
if once and fits then
  redis.call('SET', once, cmsgpack.pack(answer), 'PX', ARGV[2])
end
return answer
