-- Deletes the versions of tags: what was stored under them is a miss from then on.
-- KEYS[1] ears
-- KEYS[2..] the tags
-- Answer: {how many there were}
-- Safe to run twice: it deletes once more, and counts what came in between.
local changed = {}
for i = 2, #KEYS do
  if redis.call('UNLINK', KEYS[i]) == 1 then
    changed[#changed + 1] = KEYS[i]
  end
end
tell(KEYS[1], changed)
return {#changed}
