-- Shared: what sessions are listed in, what is told of them, and their graves.
-- Safe to run twice: what is buried is not there the second time, and indexing again changes
-- nothing.

-- For how long the hash outlives its expiry, for the reaper to find it; and the indexes.
local SLACK = 86400000
-- For how long it is told that a session has expired, rather than never been.
local REMEMBERED = 3600000

-- The sets it is listed in.
local function indexes(base, s)
  local keys = {base .. 'x'}
  for _, pair in ipairs({{'u:', s.user}, {'co:', s.company}, {'crew:', s.crew}}) do
    if pair[2] ~= '' then
      keys[#keys + 1] = base .. pair[1] .. pair[2]
    end
  end
  return keys
end

-- Reads what is written next, so that a key of a wrong type is an error before anything changes.
local function sound(base, s)
  for _, key in ipairs(indexes(base, s)) do
    redis.call('ZCARD', key)
  end
  redis.call('XLEN', base .. 'ev')
end

local function index(base, id, s, now)
  for _, key in ipairs(indexes(base, s)) do
    redis.call('ZADD', key, s.expiry, id)
    if redis.call('PTTL', key) < s.expiry + SLACK - now then
      redis.call('PEXPIREAT', key, s.expiry + 2 * SLACK)
    end
  end
  redis.call('PEXPIREAT', base .. 's:' .. id, s.expiry + SLACK)
end

local function unindex(base, id, s)
  for _, key in ipairs(indexes(base, s)) do
    -- A key of another type is no index, and lists nobody.
    redis.pcall('ZREM', key, id)
  end
end

local function announce(base, id, event, s, reason)
  local key = base .. 'ev'
  redis.call('XADD', key, 'MAXLEN', '~', 4096, '*', 'e', event, 'i', id, 'u', s.user or '',
    'c', s.company or '', 'r', s.crew or '', 'v', s.version or 0, 'w', reason)
  redis.call('PEXPIRE', key, 7 * SLACK)
  -- Before 7.0 there are no channels of a shard. Whoever missed it reads the stream later.
  if type(redis.pcall('SPUBLISH', key, event)) == 'table' then
    redis.pcall('PUBLISH', key, event)
  end
end

-- The longest absolute timeout that a session ever had, if its life was shortened since; else 0.
local function longest(base, id)
  return tonumber(redis.call('HGET', base .. 's:' .. id, 'l') or 0) or 0
end

-- For how long a grave lasts: as long as the session could have, by whatever copy of it.
local function rest(s, ever, now)
  return math.max(s.created + math.max(s.absolute, ever) - now, 0) + REMEMBERED
end

-- Ends a session, also where an index is broken, so that nothing late revives it. No copy of one
-- that expired lives longer than it did, unless its life was shortened.
local function entomb(base, id, s, event, reason, now)
  local expired, ever = event == 'expired', longest(base, id)
  local ttl = expired and ever == 0 and REMEMBERED or rest(s, ever, now)
  redis.call('DEL', base .. 's:' .. id, base .. 'w:' .. id)
  unindex(base, id, s)
  redis.call('SET', base .. 't:' .. id, expired and 'e' or 'r' .. reason, 'PX', ttl)
  announce(base, id, event, s, reason)
end

-- The same where nothing is broken.
local function bury(base, id, s, event, reason, now)
  sound(base, s)
  entomb(base, id, s, event, reason, now)
end
