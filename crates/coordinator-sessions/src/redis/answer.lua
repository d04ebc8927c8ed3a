-- Shared: what scripts answer about a session that is not simply there, and what moves.
-- Safe to run twice: a session whose replaced token was used again is revoked once.

-- {2} absent; {3} expired; {4, why} revoked; {5, shard, whether its grace is over, wrapped secret,
-- whether it is still here} moved; a replay revokes the session and answers as revoked.
local function refusal(base, id, code, s, now)
  if code == 6 then
    bury(base, id, s, 'invalidated', 'replayed', now)
    return {4, 'replayed'}
  elseif code == 4 then
    return {4, s}
  elseif code == 5 then
    if s.move then
      return {5, (struct.unpack('<I4', s.move)), 0, string.sub(s.move, 57, 88), 1}
    end
    return {5, s.shard, s.late and 1 or 0, s.wrapped or '', 0}
  end
  return {code}
end

local function moved(s)
  return struct.pack('<dddI4c8', s.version, s.last, s.expiry, s.schema, s.token)
end

local function anchored(s)
  local packed = struct.pack('<dddddI4sss', s.created, s.idle, s.absolute, s.of_user, s.of_company,
    s.crc, s.user, s.company, s.crew)
  return packed .. string.sub(redis.sha1hex(packed), 1, 8)
end

-- Whether the one text is before the other, byte for byte: `<` asks the server's locale.
local function before(one, other)
  for at = 1, #other do
    local a, b = string.byte(one, at) or -1, string.byte(other, at)
    if a ~= b then
      return a < b
    end
  end
  return false
end

-- Counts as activity, which is written down once per throttle at most; whether it was.
local function touch(base, s, now, throttle)
  if now - s.last < throttle then
    return false
  end
  sound(base, s)
  s.last = now
  s.expiry = math.min(now + s.idle + throttle, s.created + s.absolute)
  return true
end

-- All that is known of a session, as fields of an answer behind `answer`.
local function told(base, id, s, now, answer)
  for _, field in ipairs({s.version, s.created, s.last, s.expiry, now, s.idle, s.absolute,
    s.of_user, s.of_company, s.schema, s.crc, s.user, s.company, s.crew, s.digest}) do
    answer[#answer + 1] = field
  end
  local all, count, at = redis.call('HGETALL', base .. 's:' .. id), 0, #answer + 1
  answer[at] = 0
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'd:' then
      count = count + 1
      answer[#answer + 1] = string.sub(all[i], 3)
      answer[#answer + 1] = all[i + 1]
    end
  end
  answer[at] = count
  return answer
end

-- The version that a session had when it moved away, by its grave: a later one may come back.
local function left(grave)
  local moved = string.sub(grave, 1, 1) == 'm'
  return moved and select(3, struct.unpack('<I4dd', string.sub(grave, 2))) or math.huge
end
