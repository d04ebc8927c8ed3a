-- Claims an alert for one of those who listen together.
-- KEYS[1] the claim
-- ARGV[1] who claims it
-- ARGV[2] for how many ms a claim is remembered
-- Answer: {1} it is theirs; {0} another's
-- Safe to run twice: the first keeps it.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {1}
end
return {redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0}
