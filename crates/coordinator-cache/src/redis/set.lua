-- Stores values and ends their keys' leases, so that loads in flight are not stored over them.
-- KEYS[1] ears
-- KEYS[2..] for each the value, then the lease
-- ARGV[1..] for each an envelope, then the ttl in ms
-- Answer: {how many, now}
-- What is of another type is written over.
-- Safe to run twice: the same is stored again, for as long from the second on.
local now, changed = clock(), {}
for i = 2, #KEYS, 2 do
  -- The value first: with memory full nothing else is done either.
  redis.call('SET', KEYS[i], ARGV[i - 1], 'PX', ARGV[i])
  changed[#changed + 1] = KEYS[i]
  if redis.call('DEL', KEYS[i + 1]) == 1 then
    changed[#changed + 1] = KEYS[i + 1]
  end
end
tell(KEYS[1], changed)
return {#ARGV / 2, now}
