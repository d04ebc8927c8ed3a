-- Tells who listens to a topic, and nobody else, ever.
-- KEYS[1] the count of what was announced; the channel has its name
-- ARGV[1] what
-- ARGV[2] for how long it is counted on, in ms
-- Answer: {1, its number}
-- Safe to run twice: what is announced may come twice, or never; the count tells how many did not.
local number = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local told = string.format('%.0f ', number) .. ARGV[1]
-- Before 7.0 there are no channels of a shard.
if type(redis.pcall('SPUBLISH', KEYS[1], told)) == 'table' then
  redis.pcall('PUBLISH', KEYS[1], told)
end
return {1, number}
