-- Pauses a conversation: appends are refused from then on. It is there from then on, too.
-- KEYS[1] the conversation
-- KEYS[2] its window
-- KEYS[3] what left the window and is pending
-- KEYS[4] the keys of its appends
-- KEYS[5..] the indexes
-- ARGV[1] its id
-- ARGV[2] its ttl in ms, if it is new
-- ARGV[3] the reason
-- Answer: {1} paused now; {0} it was, and has this reason now; {-1} damaged
-- Safe to run twice: it stays paused since the first.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = talk(KEYS, now)
if not h then
  return {-1}
end
local before = h.paused
if before == 0 then
  h.paused = now
end
h.ends = h.new and now + tonumber(ARGV[2]) or h.ends
put(KEYS[1], h)
redis.call('HSET', KEYS[1], 'p', ARGV[3])
if h.new then
  live(KEYS, h, ARGV[1], now)
end
return {before == 0 and 1 or 0}
