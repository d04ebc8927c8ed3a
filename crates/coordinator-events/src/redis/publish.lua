-- Appends an event to its scope's stream, and tells who listens.
-- KEYS[1] the stream; the channel has its name
-- KEYS[2] of which server's reign the stream's epoch is
-- KEYS[3] the mark of the idempotency key; only with one
-- ARGV[1] the epoch as the publisher knows it, and '-*'; 0-* for whatever it is
-- ARGV[2] the nonce and the envelope
-- ARGV[3] how many events are kept at least
-- ARGV[4] any of: c, to look first whether the server is still the one of the epoch; l, to let the
--         stream live for longer, as in another epoch it does anyway; s, to be refused in any other
-- ARGV[5] for how long from now on it lives at least, in ms
-- ARGV[6] for how long the idempotency key is remembered, in ms
-- Answer: its id; {2, id of the first} with a key that was used; {0, epoch that it is, or 0}
-- Safe to run twice: with an idempotency key the second is told of the first. Without one the
-- second is another event: nobody sends it again, a lost answer is Indeterminate.
local stream, mark, frame, keep, how = KEYS[1], KEYS[3], ARGV[2], ARGV[3], ARGV[4]
local used = mark and redis.call('GET', mark)
if used then
  return {2, used}
end

local id, before, longer = nil, nil, how == 'l'
local fast = (how == '' or longer) and ARGV[1] ~= '0-*'
if fast then
  -- What nearly every event is: the next one of an epoch that the publisher knows.
  id = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', keep, ARGV[1], 'e', frame)
  if id and type(id) ~= 'string' then
    -- In a later epoch, or before 7.0, where ids are counted here.
    local why = id.err
    if not string.find(why, 'smaller', 1, true) and not string.find(why, 'stream ID', 1, true) then
      return id
    end
    id = false
  end
end
if not id or string.find(id, '-0', -2, true) then
  local anew, of = false, nil
  if id then
    -- Ids of one epoch are dense: the stream was set back to before this one began.
    redis.call('XDEL', stream, id)
    anew = true
  end
  local known, last = tonumber(string.match(ARGV[1], '^%d+')), newest(stream)
  local epoch, ended = epoch_and_number(last or '')
  anew = anew or not epoch or epoch < known
  if anew and fast and epoch then
    -- The last one that is left.
    local left = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    before = left and left[1] or ''
  end
  local strict = string.find(how, 's', 1, true)
  if string.find(how, 'c', 1, true) then
    -- Every restart and every failover begins another reign.
    local info = redis.pcall('INFO', 'replication')
    of = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or false
    -- Who may not ask begins a new epoch; who wants to be fenced, too, is fenced to it alone.
    anew = anew or not of and not strict or of and redis.call('GET', KEYS[2]) ~= of
  end
  if strict and (anew or epoch ~= known) then
    return {0, epoch or 0}
  end
  local more = {}
  if anew then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    before = before or last or ''
    epoch, ended, more = math.max(now, (epoch or 0) + 1, known + 1), -1, {'p', before}
  end
  id = string.format('%.0f-%.0f', epoch, ended + 1)
  redis.call('XADD', stream, 'MAXLEN', '~', keep, id, 'e', frame, unpack(more))
  longer = epoch ~= known or string.find(how, 'l', 1, true)
  if of then
    local left = math.max(redis.call('PTTL', KEYS[2]), tonumber(ARGV[5]))
    redis.call('SET', KEYS[2], of, 'PX', string.format('%.0f', left))
  end
end
-- Another publisher may have been promised more.
if longer and redis.call('PTTL', stream) < tonumber(ARGV[5]) then
  redis.call('PEXPIRE', stream, ARGV[5])
end
if mark then
  redis.call('SET', mark, id, 'PX', ARGV[6])
end
-- Before 7.0 there are no channels of a shard. Whoever is not told reads the stream.
local told = id .. (before and '<' .. before or '') .. ' ' .. frame
if type(redis.pcall('SPUBLISH', stream, told)) == 'table' then
  redis.pcall('PUBLISH', stream, told)
end
return id
