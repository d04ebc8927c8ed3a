-- Shared: what a session is, and how it stands. Times are ms of the server's clock.
-- `s:<id>` is a hash: `a` the anchor (created, idle and absolute timeout, epochs of user and
-- company when it was created, CRC of the names, the names, a checksum of all that); `m` what
-- moves (version, last activity, expiry, schema, token of the last write); `k` the digest of the
-- secret; `p` that of the secret before and until when it is honoured; `o` the beginnings of older
-- ones and the same; `v` where it is moving; `l`, once its life was shortened, the longest absolute
-- timeout that it ever had, in ms; `d:*` what callers keep in it.
-- Safe to run twice: it changes nothing.

-- What is not of this make is refused as a key of a wrong type is: by asking for another type.

-- What a name's epoch is, and why it was raised.
local function epoch(key)
  local value = redis.call('GET', key)
  if not value then
    return 0, ''
  end
  local number, reason = string.match(value, '^(%d+) (.*)$')
  if not number then
    redis.call('LLEN', key)
  end
  return tonumber(number), reason
end

local function anchor(packed)
  local created, idle, absolute, of_user, of_company, crc, user, company, crew =
    struct.unpack('<dddddI4sss', packed)
  return {created = created, idle = idle, absolute = absolute, of_user = of_user,
    of_company = of_company, crc = crc, user = user, company = company, crew = crew}
end

local function motion(s, packed)
  s.version, s.last, s.expiry, s.schema, s.token = struct.unpack('<dddI4c8', packed)
  return s
end

-- A session, by the two fields that every one has.
local function session(key, fixed, moving)
  local sound = string.sub(redis.sha1hex(string.sub(fixed, 1, -9)), 1, 8) == string.sub(fixed, -8)
  if #moving ~= 36 or not sound then
    redis.call('STRLEN', key)
  end
  return motion(anchor(fixed), moving)
end

-- The session at a key for those who pass by: nil if there is none, or none of this make, which
-- must not be in the way of others; and whether that is why.
local function passing(key)
  local readable, s = pcall(function()
    local got = redis.call('HMGET', key, 'a', 'm', 'v')
    if got[1] and got[2] then
      local s = session(key, got[1], got[2])
      s.move = got[3]
      return s
    end
  end)
  return readable and s or nil, not readable
end

-- Whether all of its user's or company's sessions were revoked since it was created, and why.
local function revoked(base, s)
  for _, of in ipairs({{'g:', s.user, s.of_user}, {'gc:', s.company, s.of_company}}) do
    if of[2] ~= '' then
      local number, reason = epoch(base .. of[1] .. of[2])
      if number > of[3] then
        return true, reason
      end
    end
  end
  return false
end

-- How the session stands for who holds this digest ('' for who needs none): 1 and the session,
-- with `grace` if the digest is that of before the last rotation, 1, or of an older one, 2; 2
-- absent; 3 expired; 4 revoked, and why; 5 moving or moved, and whither; 6 the digest was replaced,
-- and its grace is over.
local function standing(base, id, digest, now)
  local got = redis.call('HMGET', base .. 's:' .. id, 'a', 'm', 'k', 'p', 'o', 'v')
  if not got[1] or not got[2] or not got[3] then
    local grave = redis.call('GET', base .. 't:' .. id)
    local kind = grave and string.sub(grave, 1, 1)
    if kind == 'm' then
      local shard, till, _, old = struct.unpack('<I4ddc32', string.sub(grave, 2))
      if digest ~= '' and digest ~= old then
        return 2
      end
      return 5, {shard = shard, late = now >= till, wrapped = redis.call('GET', base .. 'w:' .. id)}
    end
    return kind == 'e' and 3 or kind == 'r' and 4 or 2, grave and string.sub(grave, 2)
  end
  local s = session(base .. 's:' .. id, got[1], got[2])
  s.digest, s.past, s.older = got[3], got[4] or '', got[5] or ''
  local till = nil
  if digest ~= '' and digest ~= s.digest then
    if string.sub(s.past, 1, 32) == digest then
      s.grace, till = 1, struct.unpack('<d', s.past, 33)
    else
      for at = 1, #s.older, 16 do
        if string.sub(s.older, at, at + 7) == string.sub(digest, 1, 8) then
          s.grace, till = 2, struct.unpack('<d', s.older, at + 8)
        end
      end
    end
    if not s.grace then
      return 2
    end
  end
  local gone, reason = revoked(base, s)
  if gone then
    return 4, reason
  elseif now >= s.expiry then
    return 3
  elseif till and now >= till then
    return 6, s
  elseif got[6] then
    s.move = got[6]
    return s.grace and 2 or 5, s
  end
  return 1, s
end
