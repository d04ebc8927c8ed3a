-- Checks a fence at a resource: a write may pass if no newer holder has written.
-- KEYS[1] the register: fence (16 digits), owner
-- ARGV[1] the fence
-- ARGV[2] the owner
-- ARGV[3] the ttl of the register in ms
-- Answer: {1} admitted; {0, seen} a newer fence was seen; {2, seen} this very fence was seen from
--         another owner.
-- Safe to run twice: the same fence of the same owner is admitted again.
local fence = tonumber(ARGV[1])
local known = redis.call('GET', KEYS[1])
if known then
  local seen = tonumber(string.sub(known, 1, 16))
  if fence < seen then
    return {0, seen}
  end
  if fence == seen and string.sub(known, 17) ~= ARGV[2] then
    return {2, seen}
  end
end
redis.call('SET', KEYS[1], string.format('%016.0f', fence) .. ARGV[2], 'PX', ARGV[3])
return {1}
