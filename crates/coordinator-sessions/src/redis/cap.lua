-- Shared: how many sessions a user may have.
-- Safe to run twice: who was sent away is not counted again.

-- Which of a user's sessions must go before there is room for one more, and how many live; the
-- policy is 0 to refuse, 1 for the oldest, 2 for the one whose last activity is longest ago.
local function crowd(base, user, id, now, cap, policy)
  local live = {}
  local number = epoch(base .. 'g:' .. user)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', base .. 'u:' .. user, '(' .. now, '+inf')) do
    local got = redis.call('HMGET', base .. 's:' .. other, 'a', 'm')
    if other ~= id and got[1] and got[2] then
      local s = motion(anchor(got[1]), got[2])
      if s.of_user >= number and not revoked(base, s) then
        s.id, s.order = other, policy == 2 and s.last or s.created
        live[#live + 1] = s
      end
    end
  end
  table.sort(live, function(one, other)
    if one.order == other.order then
      return one.id < other.id
    end
    return one.order < other.order
  end)
  local leaving = {}
  for i = 1, #live - cap + 1 do
    leaving[i] = live[i]
  end
  return leaving, #live
end
