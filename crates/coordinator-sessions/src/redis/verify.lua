-- Compares an index with the sessions in it, and mends it.
-- KEYS[1] the index; named with a key that is never there, so that a slot that
--         moves is refused
-- ARGV[1] what it is called in its shard
-- ARGV[2] how many of its members to pass over
-- ARGV[3] how many to look at
-- ARGV[4] whether to mend
-- Answer: {looked at, left, members without a session, sessions not listed as they should be, those
--         that cannot be read, those that belong into others, how many names follow, a letter and
--         a name, …}: in which other indexes they are
-- Safe to run twice: what is mended is whole.
local base = string.sub(KEYS[1], 1, -#ARGV[1] - 1)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local from, mends = tonumber(ARGV[2]), ARGV[4] == '1'
local ids = redis.call('ZRANGE', KEYS[1], from, from + tonumber(ARGV[3]) - 1)
local orphans, missing, unreadable, strays, removed = 0, 0, 0, 0, 0
local answer = {}
for _, id in ipairs(ids) do
  local s, broken = passing(base .. 's:' .. id)
  if broken then
    -- It may be mended, but not here.
    unreadable = unreadable + 1
  elseif not s then
    orphans = orphans + 1
    if mends then
      -- Its time is told by the reaper if it is listed by expiry.
      removed = removed + (ARGV[1] ~= 'x' and redis.call('ZREM', KEYS[1], id) or 0)
      if ARGV[1] == 'x' then
        redis.call('ZADD', KEYS[1], 'XX', now, id)
      end
    end
  else
    -- Those that are listed by expiry are compared there.
    local belongs = false
    for _, key in ipairs(indexes(base, s)) do
      belongs = belongs or key == KEYS[1]
    end
    if not belongs then
      strays = strays + 1
      removed = removed + (mends and redis.call('ZREM', KEYS[1], id) or 0)
    end
    local wrong = ARGV[1] ~= 'x' and not redis.call('ZSCORE', base .. 'x', id)
    for _, key in ipairs(ARGV[1] == 'x' and indexes(base, s) or {}) do
      wrong = wrong or tonumber(redis.call('ZSCORE', key, id) or -1) ~= s.expiry
    end
    missing = missing + (wrong and 1 or 0)
    if wrong and mends then
      index(base, id, s, now)
    end
    for _, pair in ipairs({{'u:', s.user}, {'co:', s.company}, {'crew:', s.crew}}) do
      if pair[2] ~= '' then
        answer[#answer + 1] = pair[1] .. pair[2]
      end
    end
  end
end
return {#ids, #ids - removed, orphans, missing, unreadable, strays, #answer, unpack(answer)}
