-- Reads a document and what is known of it.
-- KEYS[1] the document
-- KEYS[2] the former values
-- Answer: {1, version, updated in µs, ms left or -1, how many former values, value};
--         {0} there is none; {2} what is there cannot be read
-- Safe to run twice: it changes nothing.
local found = redis.call('HMGET', KEYS[1], 'head', 'data')
local head, data = found[1], found[2]
if not head and not data and redis.call('EXISTS', KEYS[1]) == 0 then
  return {0}
end
local version = head and #head == 32 and tonumber(string.sub(head, 1, 16))
local updated = version and tonumber(string.sub(head, 17, 32))
if not updated or not data then
  return {2}
end
return {1, version, updated, redis.call('PTTL', KEYS[1]), redis.call('LLEN', KEYS[2]), data}
