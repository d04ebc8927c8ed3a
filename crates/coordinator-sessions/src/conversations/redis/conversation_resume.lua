-- Ends the pause of a conversation.
-- KEYS[1] the conversation
-- KEYS[2] its window
-- KEYS[3] what left the window and is pending
-- Answer: {1} it was paused; {0} it was not, or is not there; {-1} damaged
-- Safe to run twice: it goes on.
local time = redis.call('TIME')
local h = talk(KEYS, time[1] * 1000 + math.floor(time[2] / 1000))
if not h then
  return {-1}
end
if h.paused == 0 then
  return {0}
end
h.paused = 0
put(KEYS[1], h)
redis.call('HDEL', KEYS[1], 'p')
return {1}
