-- Shared: reads where another program may have put what is no text.
-- Safe to run twice: it changes nothing.

local function is_text(key)
  return redis.call('TYPE', key).ok == 'string'
end

-- The text at a key; false if there is none, or anything else.
local function text(key)
  return is_text(key) and redis.call('GET', key)
end
