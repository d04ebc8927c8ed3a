-- Shared: what a call asks before it looks at limits.
-- Safe to run twice: it reads.

-- What to answer without looking, if anything: the epochs, where they are others than the call
-- knows, or the first admission of its id. And the mark of that id.
local function before(keys, args, count)
  local asked, once = 2 * count, false
  if #keys == asked then
    return nil, once
  end
  if args[2] ~= '0' then
    asked = asked + 1
    once = keys[asked]
  end
  local epochs, same = {2}, true
  for i = 1, #keys - asked do
    local epoch = redis.call('GET', keys[asked + i]) or '0'
    same = same and epoch == args[2 + 8 * count + i]
    epochs[i + 1] = tonumber(epoch)
  end
  if not same then
    return epochs, once
  end
  local told = once and redis.call('GET', once)
  return told and cmsgpack.unpack(told) or nil, once
end
