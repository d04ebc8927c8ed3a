-- Makes values stale and ends their keys' leases, so that loads in flight are not stored.
-- KEYS[1] ears
-- KEYS[2..] for each the value, then the lease
-- Answer: {how many values there were}
-- Safe to run twice: a stale value stays stale, for as long as it is kept.
local found, changed = {}, {}
for i = 2, #KEYS, 2 do
  if is_text(KEYS[i]) and version_of(redis.call('GETRANGE', KEYS[i], 0, HEAD - 1)) then
    found[#found + 1] = KEYS[i]
  end
end
for _, key in ipairs(found) do
  redis.call('SETRANGE', key, SOFT_AT, string.rep('\0', 8))
  changed[#changed + 1] = key
end
for i = 3, #KEYS, 2 do
  if redis.call('DEL', KEYS[i]) == 1 then
    changed[#changed + 1] = KEYS[i]
  end
end
tell(KEYS[1], changed)
return {#found}
