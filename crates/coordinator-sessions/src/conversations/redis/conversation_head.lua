-- Shared: the head of a conversation, the items of its lists, and the indexes it stands in.
-- The head says what there is without a look at the lists, in eleven numbers: until when and since
-- when it lives, in ms; the last sequence; the tokens ever; how many messages left the window, and
-- their tokens; how many of those are no more in the list of pending ones, and how many of those a
-- summary covers; how many were lost; the summary's tokens; since when it is paused, 0 for not.
-- The head and each item begin with a byte 1 and eight hex digits of the SHA-1 of what follows.
-- Safe to run twice: reading changes nothing, and what is prolonged is prolonged.

local NUMBERS = '>I6I6I6I6I6I6I6I6I6I6I6'

local function close(payload)
  return '\1' .. string.sub(redis.sha1hex(payload), 1, 8) .. payload
end

-- What was closed, unless it is not what was written.
local function opened(stored)
  local payload = string.sub(stored, 10)
  return close(payload) == stored and payload or nil
end

-- The head, a new one where there is nothing; nil if something of it is damaged or was deleted.
-- Every key is read, so that one of a wrong type is found before anything is written.
local function talk(keys, now)
  local said, gone = redis.call('LLEN', keys[2]), redis.call('LLEN', keys[3])
  for i = 4, #keys do
    redis.call('ZCARD', keys[i])
  end
  local stored, h = redis.call('HGET', keys[1], 'h'), {}
  if stored then
    local numbers = opened(stored)
    if not numbers or #numbers ~= 66 then
      return nil
    end
    h.ends, h.born, h.last, h.ever, h.evicted, h.gone, h.floor, h.covered, h.lost, h.summary,
      h.paused = struct.unpack(NUMBERS, numbers)
  elseif redis.call('EXISTS', keys[1]) == 0 then
    h = {new = true, ends = 0, born = now, last = 0, ever = 0, evicted = 0, gone = 0, floor = 0,
      covered = 0, lost = 0, summary = 0, paused = 0}
  end
  if h.last and said == h.last - h.evicted and gone == h.evicted - h.floor then
    return h
  end
end

local function put(key, h)
  redis.call('HSET', key, 'h', close(struct.pack(NUMBERS, h.ends, h.born, h.last, h.ever,
    h.evicted, h.gone, h.floor, h.covered, h.lost, h.summary, h.paused)))
end

-- Has the four keys of a conversation live as long as its head says, and the indexes know of it.
local function live(keys, h, id, now)
  local ends = string.format('%.0f', h.ends)
  for i = 1, 4 do
    redis.call('PEXPIREAT', keys[i], ends)
  end
  for i = 5, #keys do
    redis.call('ZADD', keys[i], ends, id)
    local past = redis.call('ZRANGEBYSCORE', keys[i], '-inf', '(' .. string.format('%.0f', now),
      'LIMIT', 0, 16)
    if #past > 0 then
      redis.call('ZREM', keys[i], unpack(past))
    end
    if redis.call('PTTL', keys[i]) < h.ends - now then
      redis.call('PEXPIREAT', keys[i], ends)
    end
  end
end

-- The items of a list; nil if one is not what was written.
local function items(key)
  local found = redis.call('LRANGE', key, 0, -1)
  for _, item in ipairs(found) do
    if not opened(item) then
      return nil
    end
  end
  return found
end

-- What answers tell of a head.
local function told(h, now)
  return {h.ends - now, now - h.born, h.last, h.ever, h.evicted, h.gone, h.floor, h.covered,
    h.lost, h.summary}
end
