-- Gives a lease up.
-- KEYS[1] ears
-- KEYS[2] the lease
-- ARGV[1] a byte 1 and the token
-- Answer: {1} done; {0} it was not the token's any more
-- Safe to run twice: the second finds it gone, or another's.
if text(KEYS[2]) ~= ARGV[1] then
  return {0}
end
redis.call('DEL', KEYS[2])
tell(KEYS[1], {KEYS[2]})
return {1}
