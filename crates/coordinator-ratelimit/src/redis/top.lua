-- Lists who is denied most often, the first first.
-- KEYS[1] the shard's ranking
-- KEYS[2] when each was last recorded, in ms
-- ARGV[1] how many
-- Answer: {count, {denials, ms, name}, …}
-- Safe to run twice: it changes nothing.
local ranked = redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
local answer = {#ranked / 2}
for i = 1, #ranked, 2 do
  local last = redis.call('ZSCORE', KEYS[2], ranked[i])
  answer[(i + 3) / 2] = {tonumber(ranked[i + 1]), tonumber(last or '0'), ranked[i]}
end
return answer
