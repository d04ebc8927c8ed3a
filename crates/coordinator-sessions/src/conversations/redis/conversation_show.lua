-- Reads a conversation.
-- KEYS[1] the conversation
-- KEYS[2] its window
-- KEYS[3] what left the window and is pending
-- ARGV[1] 1: with the window
-- ARGV[2] 1: with what is pending
-- ARGV[3] 1: with the fields
-- Answer: {1, {…}, for how many ms it has been paused or -1, reason, summary, {name, value, …},
--   {item, …}, {item, …}} head, texts, fields, window, pending; {0} it is not there; {-1} damaged
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = talk(KEYS, now)
if not h then
  return {-1}
end
if h.new then
  return {0}
end
local fields, window, pending = {}, {}, {}
if ARGV[3] == '1' then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if string.find(all[i], ':', 1, true) then
      fields[#fields + 1], fields[#fields + 2] = all[i], all[i + 1]
    end
  end
end
if ARGV[1] == '1' then
  window = items(KEYS[2])
end
if ARGV[2] == '1' then
  pending = items(KEYS[3])
end
if not window or not pending then
  return {-1}
end
return {1, told(h, now), h.paused > 0 and math.max(0, now - h.paused) or -1,
  redis.call('HGET', KEYS[1], 'p') or '', redis.call('HGET', KEYS[1], 's') or '', fields, window,
  pending}
