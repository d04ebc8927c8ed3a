-- Shared: what a consumer was told last, so that a take whose answer was lost is told the same.
-- Safe to run twice: it writes the same.

-- The last answer, if it was this take's and nothing of it is anybody else's by now.
local function told_before(keys, token, now)
  local _, whose, due, answer = pcall(cmsgpack.unpack, redis.call('GET', keys[7]) or '')
  if redis.call('EXISTS', keys[2]) == 0 or whose ~= token or due <= now then
    return nil
  end
  for i = 9, #answer, 3 do
    local work = held(keys, answer[i], token)
    if not work then
      return nil
    end
    answer[i + 2] = work.event
  end
  answer[3] = due - now
  return answer
end

-- Without the events, which are there anyway.
local function remember(key, token, due, answer, ttl)
  local kept = {unpack(answer)}
  for i = 11, #kept, 3 do
    kept[i] = ''
  end
  redis.call('SET', key, cmsgpack.pack(token, due, kept), 'PX', ttl)
end
