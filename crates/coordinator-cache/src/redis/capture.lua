-- Reads versions, and gives one to whatever has none.
-- KEYS[1] ears
-- KEYS[2..] the keys of the versions
-- ARGV[1] the version for those that have none
-- ARGV[2] for how long they are kept at least, in ms; rarely prolonged, since that is a change to
--         whoever tracks the key
-- Answer: {how many, each one's version, …}
-- Safe to run twice: what has a version keeps it.
local answer, changed = {#KEYS - 1}, {}
for i = 2, #KEYS do
  answer[i] = text(KEYS[i])
end
local life = string.format('%.0f', 2 * ARGV[2])
for i = 2, #KEYS do
  -- What is not of our making counts for nothing.
  if not answer[i] or #answer[i] ~= #ARGV[1] then
    redis.call('SET', KEYS[i], ARGV[1], 'PX', life)
    answer[i] = ARGV[1]
    changed[#changed + 1] = KEYS[i]
  elseif redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[i], life)
  end
end
tell(KEYS[1], changed)
return answer
