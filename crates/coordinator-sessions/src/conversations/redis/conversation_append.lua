-- Appends messages and takes from the head of the window what it no longer holds: a call and what
-- answers it together. What left the window is kept until a summary covers it.
-- KEYS[1] the conversation
-- KEYS[2] its window
-- KEYS[3] what left the window and is pending
-- KEYS[4] the keys of its appends
-- KEYS[5..] the indexes: of the shard, and of the user if it has one
-- ARGV[1] its id
-- ARGV[2] its ttl in ms
-- ARGV[3] how many messages the window holds
-- ARGV[4] how many tokens; -1: any number
-- ARGV[5] how many messages may be pending
-- ARGV[6] the key of this append, empty for none
-- ARGV[7..] per message: its tokens, the links of its calls, the link of the call it answers or
--   nothing, and its body
-- Answer: {1, {…}, first sequence, how many, {item, …}} appended, the head and what it evicted;
--   {2, …} it was before, the head and all that is pending; {3, ms, reason} paused for so long;
--   {-1} damaged
-- Safe to run twice: the key remembers what it appended. Without a key it appends again, and is
-- sent once.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = talk(KEYS, now)
if not h then
  return {-1}
end
local known = ARGV[6] ~= '' and redis.call('ZSCORE', KEYS[4], ARGV[6])
if known then
  local pending = items(KEYS[3])
  if not pending then
    return {-1}
  end
  return {2, told(h, now), math.floor(known / 128), known % 128, pending}
end
if h.paused > 0 then
  return {3, math.max(0, now - h.paused), redis.call('HGET', KEYS[1], 'p') or ''}
end

local size = h.last - h.evicted
local all, n, damaged = {}, size, false
local function at(i)
  if not all[i] then
    local item = redis.call('LINDEX', KEYS[2], i - 1)
    damaged = damaged or not opened(item)
    all[i] = damaged and {tokens = 0, calls = '', answers = ''} or taken_apart(item)
  end
  return all[i]
end
-- Where the call is that a message answers: the nearest before it with that link.
local function caller(j)
  for i = j - 1, 1, -1 do
    if makes(at(i).calls, all[j].answers) then
      return i
    end
  end
  return 0
end
local fresh = {}
for i = 7, #ARGV, 4 do
  local one = packed(h.last + #fresh + 1, tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  h.ever = h.ever + one.tokens
  fresh[#fresh + 1], all[n + 1] = one, one
  -- An answer whose call has left does not come in.
  if one.answers == '' or caller(n + 1) > 0 then
    n = n + 1
    one.place = n
  else
    h.gone = h.gone + one.tokens
    all[n + 1] = nil
  end
end
local most, budget, cut, reach = tonumber(ARGV[3]), tonumber(ARGV[4]), 0, 0
while cut < n and (cut < reach or n - cut > most or budget >= 0 and h.ever - h.gone > budget) do
  cut = cut + 1
  h.gone = h.gone + at(cut).tokens
  for j = cut + 1, at(cut).calls == '' and 0 or n do
    reach = at(j).answers ~= '' and caller(j) == cut and math.max(reach, j) or reach
  end
end
if damaged then
  return {-1}
end
return write(KEYS, h, now, ARGV, size, all, cut, fresh)
