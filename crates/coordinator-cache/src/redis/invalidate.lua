-- Deletes values and ends their keys' leases, so that loads in flight are not stored.
-- KEYS[1] ears
-- KEYS[2..] for each the value, then the lease
-- Answer: {how many values there were}
-- Safe to run twice: it deletes once more, and counts what came in between.
local count, changed = 0, {}
for i = 2, #KEYS do
  if redis.call('UNLINK', KEYS[i]) == 1 then
    changed[#changed + 1] = KEYS[i]
    count = count + (i % 2 == 0 and 1 or 0)
  end
end
tell(KEYS[1], changed)
return {count}
