-- Reads texts that another program left under keys of its own, a part of them at a time.
-- ARGV[1] where to go on; 0 at first
-- ARGV[2] which keys, as a pattern
-- ARGV[3] about how many keys of the server to look at
-- Answer: {how many, where to go on or 0, {ms left or -1, whether it is a text, key, text}, …}
-- Safe to run twice: it changes nothing.
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local answer = {#page[2], page[1]}
for i, key in ipairs(page[2]) do
  local is_text = redis.call('TYPE', key).ok == 'string'
  local text = is_text and redis.call('GET', key) or ''
  answer[i + 2] = {redis.call('PTTL', key), is_text and 1 or 0, key, text}
end
return answer
