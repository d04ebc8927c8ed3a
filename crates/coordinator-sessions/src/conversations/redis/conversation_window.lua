-- Shared: the items of a window, and how an append is written.
-- An item is a byte 1, the sum, the sequence, the tokens, how many links of calls and of answers
-- follow, the links of eight bytes each, and the body.
-- Safe to run twice: writing appends again. Its caller asks for the key first.

local function packed(sequence, tokens, calls, answers, body)
  local item = struct.pack('>I6I4BB', sequence, tokens, #calls / 8, #answers / 8)
  return {tokens = tokens, calls = calls, answers = answers,
    item = close(item .. calls .. answers .. body)}
end

local function taken_apart(item)
  local _, tokens, calls, answers, from = struct.unpack('>I6I4BB', item, 10)
  local to = from + 8 * calls
  return {tokens = tokens, calls = string.sub(item, from, to - 1),
    answers = string.sub(item, to, to + 8 * answers - 1), item = item}
end

local function makes(calls, link)
  for k = 1, #calls, 8 do
    if string.sub(calls, k, k + 7) == link then
      return true
    end
  end
  return false
end

-- Writes an append of which the first `cut` messages leave, of `size` that were there and of the
-- fresh ones with a place; the answer.
local function write(keys, h, now, args, size, all, cut, fresh)
  local evicted, kept = {}, {}
  for i = 1, math.min(cut, size) do
    evicted[i] = all[i].item
  end
  for _, one in ipairs(fresh) do
    local to = one.place and one.place > cut and kept or evicted
    to[#to + 1] = one.item
  end
  local first = h.last + 1
  h.last, h.evicted = h.last + #fresh, h.evicted + #evicted
  local over = math.max(0, h.evicted - h.floor - tonumber(args[5]))
  h.floor, h.lost = h.floor + over, h.lost + over
  h.ends = math.max(h.ends, now + tonumber(args[2]))
  put(keys[1], h)
  if cut > 0 then
    redis.call('LTRIM', keys[2], cut, -1)
  end
  if #kept > 0 then
    redis.call('RPUSH', keys[2], unpack(kept))
  end
  if #evicted > 0 then
    redis.call('RPUSH', keys[3], unpack(evicted))
    redis.call('LTRIM', keys[3], over, -1)
  end
  if args[6] ~= '' then
    -- One more than this many and the set would no longer be kept compactly.
    redis.call('ZREMRANGEBYRANK', keys[4], 0, -128)
    redis.call('ZADD', keys[4], string.format('%.0f', first * 128 + #fresh), args[6])
  end
  live(keys, h, args[1], now)
  return {1, told(h, now), first, #fresh, evicted}
end
