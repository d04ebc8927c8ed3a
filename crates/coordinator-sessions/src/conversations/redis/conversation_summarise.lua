-- Puts a summary in place of messages that left the window, if it covers all that is not covered.
-- KEYS[1] the conversation
-- KEYS[2] its window
-- KEYS[3] what left the window and is pending
-- KEYS[4] the keys of its appends
-- KEYS[5..] the indexes
-- ARGV[1] its id
-- ARGV[2] its ttl in ms, if it is new
-- ARGV[3] behind which of the messages that left
-- ARGV[4] up to which of them
-- ARGV[5] the summary's tokens
-- ARGV[6] the summary
-- Answer: {1, {…}} stored, the head; {0, {…}} it covers too little, or what is covered already;
--   {-1} damaged
-- Safe to run twice: the same summary of the same messages is there already.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = talk(KEYS, now)
if not h then
  return {-1}
end
local after, to = tonumber(ARGV[3]), tonumber(ARGV[4])
if h.covered == to and redis.call('HGET', KEYS[1], 's') == ARGV[6] then
  return {1, told(h, now)}
end
if after < h.covered or after > h.floor or to < after or to > h.evicted then
  return {0, told(h, now)}
end
-- What was dropped as too old since it was read is not lost, then.
h.lost = h.lost - (math.min(h.floor, to) - after)
local covered = math.max(0, to - h.floor)
h.covered, h.floor, h.summary = to, h.floor + covered, tonumber(ARGV[5])
h.ends = h.new and now + tonumber(ARGV[2]) or h.ends
put(KEYS[1], h)
redis.call('HSET', KEYS[1], 's', ARGV[6])
if covered > 0 then
  redis.call('LTRIM', KEYS[3], covered, -1)
end
if h.new then
  live(KEYS, h, ARGV[1], now)
end
return {1, told(h, now)}
