-- Says that somebody listens who cannot track keys.
-- KEYS[1..] ears
-- ARGV[1] for how long that is known, in ms
-- Answer: {of how many it was known}
-- Safe to run twice: the second finds it known.
local known = redis.call('EXISTS', unpack(KEYS))
for _, ears in ipairs(KEYS) do
  redis.call('SET', ears, '\1', 'PX', ARGV[1])
end
return {known}
