-- Shared: the server's time.
-- Safe to run twice: it changes nothing.

-- In whole ms.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
