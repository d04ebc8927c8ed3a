-- Deletes a conversation, also one that is damaged.
-- KEYS[1] the conversation
-- KEYS[2] its window
-- KEYS[3] what left the window and is pending
-- KEYS[4] the keys of its appends
-- KEYS[5..] the indexes
-- ARGV[1] its id
-- Answer: {1} it was there; {0} it was not
-- Safe to run twice: what is gone stays gone. What begins anew under the same id in between goes as
--         well, as with any late delete.
for i = 5, #KEYS do
  redis.call('ZCARD', KEYS[i])
end
local deleted = redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
for i = 5, #KEYS do
  redis.call('ZREM', KEYS[i], ARGV[1])
end
return {deleted > 0 and 1 or 0}
