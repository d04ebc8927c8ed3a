-- Prolongs leases of one shard, each by itself: one that is lost harms no other.
-- KEYS[1] the shard's index of held locks by expiry in ms
-- KEYS[n] then for each lease its lock and the tombstone of its token
-- ARGV[n] for each lease its token, its ttl in ms and its member in the index
-- Answer: {count, status, …}; a status is 1 renewed, 0 gone, 2 held by another,
--         3 released by force, 4 released before.
-- Safe to run twice: a renewal only ever prolongs, and only a lock that bears the token.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = (#KEYS - 1) / 2
local answer = {count}
for i = 1, count do
  local key, tombstone = KEYS[2 * i], KEYS[2 * i + 1]
  local token, ttl, member = ARGV[3 * i - 2], tonumber(ARGV[3 * i - 1]), ARGV[3 * i]
  -- A key of a wrong type is not ours, and must not stop the others.
  local lock = redis.pcall('GET', key)
  if type(lock) == 'string' and string.sub(lock, 1, 32) == token then
    ttl = math.max(redis.call('PTTL', key), ttl)
    redis.call('PEXPIRE', key, ttl)
    -- The lease counts; an index of a wrong type must not stop it.
    redis.pcall('ZADD', KEYS[1], string.format('%.0f', now + ttl), member)
    answer[i + 1] = 1
  else
    local grave = redis.call('GET', tombstone)
    local mark = grave and string.sub(grave, 1, 1)
    if mark == 'f' then
      answer[i + 1] = 3
    elseif mark == 'r' then
      answer[i + 1] = 4
    elseif lock then
      answer[i + 1] = 2
    else
      answer[i + 1] = 0
    end
  end
end
return answer
