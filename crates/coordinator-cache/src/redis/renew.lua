-- Prolongs a lease.
-- KEYS[1] the lease
-- ARGV[1] a byte 1 and the token
-- ARGV[2] for how long, in ms
-- Answer: {1} done; {0} it is not the token's any more
-- Safe to run twice: it lasts from the second on.
if text(KEYS[1]) ~= ARGV[1] then
  return {0}
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1}
