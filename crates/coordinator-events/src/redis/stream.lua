-- Shared: where a scope's stream ends.
-- KEYS[1] the stream
-- Safe to run twice: it changes nothing.

-- The last id there ever was; nil without a stream.
local function newest()
  local info = redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XINFO', 'STREAM', KEYS[1]) or {}
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1]
    end
  end
end

-- Of an id.
local function epoch_and_number(id)
  local epoch, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(number)
end
