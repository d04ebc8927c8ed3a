-- Deletes a document, its former values and its place in the index.
-- KEYS[1] the document
-- KEYS[2] the names of the namespace in this shard
-- KEYS[3] the same by their end
-- KEYS[4] the former values
-- KEYS[5] the mark of this delete
-- ARGV[1] the encoded name
-- ARGV[2] for how many ms the mark is remembered
-- Answer: {1} it was there; {0} it was not
-- Safe to run twice: the mark tells that it was deleted, and what was written since stays. Where
--         nothing was there, nothing is remembered.
-- Deleting comes first, so that memory that is full does not forbid it.
if redis.call('EXISTS', KEYS[5]) == 1 then
  return {1}
end
local length = redis.call('HLEN', KEYS[1])
redis.call('ZSCORE', KEYS[2], ARGV[1])
redis.call('ZSCORE', KEYS[3], ARGV[1])
redis.call('LLEN', KEYS[4])
redis.call('DEL', KEYS[1], KEYS[4])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if length == 0 then
  return {0}
end
redis.call('SET', KEYS[5], '1', 'PX', ARGV[2])
return {1}
