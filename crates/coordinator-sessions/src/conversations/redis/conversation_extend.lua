-- Has a conversation live for so long from now on at least.
-- KEYS[1] the conversation
-- KEYS[2] its window
-- KEYS[3] what left the window and is pending
-- KEYS[4] the keys of its appends
-- KEYS[5..] the indexes
-- ARGV[1] its id
-- ARGV[2] for how many ms
-- Answer: {1, ms} it lives for so long; {0} it is not there; {-1} damaged
-- Safe to run twice: it only prolongs.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = talk(KEYS, now)
if not h then
  return {-1}
end
if h.new then
  return {0}
end
h.ends = math.max(h.ends, now + tonumber(ARGV[2]))
put(KEYS[1], h)
live(KEYS, h, ARGV[1], now)
return {1, h.ends - now}
