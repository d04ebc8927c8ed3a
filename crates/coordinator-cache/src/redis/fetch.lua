-- Reads several strings; what is of another type counts as absent.
-- KEYS[1..] the keys
-- Answer: {how many, each one's text or the empty one, …}
-- Safe to run twice: it changes nothing.
local answer = {#KEYS}
for i, value in ipairs(redis.call('MGET', unpack(KEYS))) do
  answer[i + 1] = value or ''
end
return answer
