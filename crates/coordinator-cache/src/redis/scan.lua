-- Some of a namespace's keys on the node of its one key, which is not read.
-- ARGV[1] where to go on, 0 at first
-- ARGV[2] the pattern of values and leases
-- ARGV[3] about how many keys to look at
-- Answer: {how many, where to go on or 0, key, …}
-- Safe to run twice: it changes nothing.
local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
return {#found[2], found[1], unpack(found[2])}
