-- Shared: where a scope's stream ends.
-- Safe to run twice: it changes nothing.

-- The last id there ever was; nil without a stream.
local function newest(stream)
  local info = redis.call('EXISTS', stream) == 1 and redis.call('XINFO', 'STREAM', stream) or {}
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
