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
local stream, reign_key, mark, frame = KEYS[1], KEYS[2], KEYS[3], ARGV[4]
local keep, ttl = ARGV[5], ARGV[6]
local used = mark and redis.call('GET', mark)
if used then
  return {2, used}
end

local id, before, of, anew = nil, nil, nil, false
local fast = ARGV[1] ~= '0' and ARGV[2] == '0' and ARGV[3] == '0'
if fast then
  -- What nearly every event is: the next one of an epoch that the publisher knows.
  local next_id = ARGV[1] .. '-*'
  id = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, next_id, 'e', frame)
  if type(id) == 'table' then
    -- In a later epoch, or before 7.0, where ids are counted here.
    local why = id.err
    if not string.find(why, 'smaller', 1, true) and not string.find(why, 'stream ID', 1, true) then
      return id
    end
    id = false
  elseif id and string.sub(id, -2) == '-0' then
    -- Ids of one epoch are dense: the stream was set back to before this one began.
    redis.call('XDEL', stream, id)
    id, anew = false, true
  end
end
if not id then
  local known, last = tonumber(ARGV[1]), newest(stream)
  local epoch, number = epoch_and_number(last or '')
  anew = anew or not epoch or epoch < known
  if anew and fast and epoch then
    -- The last one that is left.
    local left = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    before = left and left[1] or ''
  end
  if ARGV[2] == '1' then
    -- Every restart and every failover begins another reign.
    local info = redis.pcall('INFO', 'replication')
    of = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or false
    -- Who may not ask begins a new epoch; who wants to be fenced, too, is fenced to it alone.
    anew = anew or not of and ARGV[3] == '0' or of and redis.call('GET', reign_key) ~= of
  end
  if ARGV[3] == '1' and (anew or epoch ~= known) then
    return {0, epoch or 0}
  end
  local more = {}
  if anew then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    before = before or last or ''
    epoch, number, more = math.max(now, (epoch or 0) + 1, known + 1), -1, {'p', before}
  end
  id = string.format('%.0f-%.0f', epoch, number + 1)
  redis.call('XADD', stream, 'MAXLEN', '~', keep, id, 'e', frame, unpack(more))
  if of then
    redis.call('SET', reign_key, of, 'PX', ttl)
  end
end
redis.call('PEXPIRE', stream, ttl)
if mark then
  redis.call('SET', mark, id, 'PX', ARGV[7])
end
-- Before 7.0 there are no channels of a shard. Whoever is not told reads the stream.
local told = id .. (before and '<' .. before or '') .. ' ' .. frame
if type(redis.pcall('SPUBLISH', stream, told)) == 'table' then
  redis.pcall('PUBLISH', stream, told)
end
return {1, id}
