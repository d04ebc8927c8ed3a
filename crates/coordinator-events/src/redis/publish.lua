-- Appends an event to its scope's stream, and tells who listens.
-- KEYS[1] the stream; the channel has its name
-- KEYS[2] of which server's reign the stream's epoch is
-- KEYS[3] the mark of the idempotency key; only with one
-- ARGV[1] the epoch as the publisher knows it; 0 for whatever it is
-- ARGV[2] 1 to look first whether the server is still the one of the epoch
-- ARGV[3] 1 to be refused in any other epoch
-- ARGV[4] the nonce and the envelope
-- ARGV[5] how many events are kept at least
-- ARGV[6] for how long after the last one, in ms
-- ARGV[7] for how long the idempotency key is remembered, in ms
-- Answer: {1, id}; {2, id of the first} with a key that was used; {0, epoch that it is, or 0}
-- Safe to run twice: with an idempotency key the second is told of the first. Without one the
-- second is another event: nobody sends it again, a lost answer is Indeterminate.
local stream, reign_key, mark = KEYS[1], KEYS[2], KEYS[3]
local known, keep, ttl = tonumber(ARGV[1]), ARGV[5], ARGV[6]
local used = mark and redis.call('GET', mark)
if used then
  return {2, used}
end

-- The last id there ever was, as epoch and number; nil without a stream.
local function newest()
  local info = redis.call('EXISTS', stream) == 1 and redis.call('XINFO', 'STREAM', stream) or {}
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local epoch, number = string.match(info[i + 1], '^(%d+)-(%d+)$')
      return tonumber(epoch), tonumber(number)
    end
  end
end

-- Every restart and every failover begins another reign. Who may not ask begins a new epoch.
local function reign()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or false
end

local id, before, of, anew = nil, nil, nil, false
if known > 0 and ARGV[2] == '0' and ARGV[3] == '0' then
  id = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, ARGV[1] .. '-*', 'e', ARGV[4])
  if type(id) == 'table' then
    -- In a later epoch, or before 7.0, where ids are counted here.
    local why = id.err
    if not string.find(why, 'smaller', 1, true) and not string.find(why, 'stream ID', 1, true) then
      return id
    end
    id = nil
  elseif id and string.sub(id, -2) == '-0' then
    -- Ids of one epoch are dense: the stream was set back to before this one began.
    redis.call('XDEL', stream, id)
    local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    id, anew, before = nil, true, last and last[1] or ''
  end
end
if not id then
  local epoch, number = newest()
  anew = anew or not epoch or epoch < known
  if ARGV[2] == '1' then
    of = reign()
    -- Who wants to be fenced and may not ask is fenced to the epoch alone.
    anew = anew or not of and ARGV[3] == '0' or of and redis.call('GET', reign_key) ~= of
  end
  if ARGV[3] == '1' and (anew or epoch ~= known) then
    return {0, epoch or 0}
  end
  local more = {}
  if anew then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    before = before or epoch and string.format('%.0f-%.0f', epoch, number) or ''
    epoch, number, more = math.max(now, (epoch or 0) + 1, known + 1), -1, {'p', before}
  end
  id = string.format('%.0f-%.0f', epoch, number + 1)
  redis.call('XADD', stream, 'MAXLEN', '~', keep, id, 'e', ARGV[4], unpack(more))
  if of then
    redis.call('SET', reign_key, of, 'PX', ttl)
  end
end
redis.call('PEXPIRE', stream, ttl)
if mark then
  redis.call('SET', mark, id, 'PX', ARGV[7])
end
-- Before 7.0 there are no channels of a shard. Whoever is not told reads the stream.
local told = id .. (before and '<' .. before or '') .. ' ' .. ARGV[4]
if type(redis.pcall('SPUBLISH', stream, told)) == 'table' then
  redis.pcall('PUBLISH', stream, told)
end
return {1, id}
