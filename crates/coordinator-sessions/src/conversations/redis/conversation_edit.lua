-- Sets and removes fields of a conversation; it is there from then on.
-- KEYS[1] the conversation
-- KEYS[2] its window
-- KEYS[3] what left the window and is pending
-- KEYS[4] the keys of its appends
-- KEYS[5..] the indexes
-- ARGV[1] its id
-- ARGV[2] its ttl in ms, if it is new
-- ARGV[3] how many fields it has at most
-- ARGV[4] how many are set
-- ARGV[5..] per field that is set its name and value, then the names of those that are removed
-- Answer: {1} done; {0, how many there are} there is no room; {-1} damaged
-- Safe to run twice: the same fields are set and removed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = talk(KEYS, now)
if not h then
  return {-1}
end
local set, removed = {}, {}
local count = redis.call('HLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[1], 'h')
  - redis.call('HEXISTS', KEYS[1], 's') - redis.call('HEXISTS', KEYS[1], 'p')
local more = 0
for i = 5, #ARGV do
  if i >= 5 + 2 * ARGV[4] then
    removed[#removed + 1] = ARGV[i]
    more = more - redis.call('HEXISTS', KEYS[1], ARGV[i])
  else
    set[#set + 1] = ARGV[i]
    if i % 2 == 1 then
      more = more + 1 - redis.call('HEXISTS', KEYS[1], ARGV[i])
    end
  end
end
if more > 0 and count + more > tonumber(ARGV[3]) then
  return {0, count}
end
if #set > 0 then
  if h.new then
    h.ends = now + tonumber(ARGV[2])
    put(KEYS[1], h)
    live(KEYS, h, ARGV[1], now)
  end
  redis.call('HSET', KEYS[1], unpack(set))
end
if #removed > 0 then
  redis.call('HDEL', KEYS[1], unpack(removed))
end
return {1}
