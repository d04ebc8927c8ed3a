-- Shared: how many sessions a user may have.
-- Safe to run twice: who was sent away is not counted again.

-- The session that one more replaces, and that goes for it; nil if it has ended, or moves.
local function replaced(base, id, now)
  local s = id ~= '' and passing(base .. 's:' .. id)
  if s and not s.move and now < s.expiry and not revoked(base, s) then
    sound(base, s)
    s.id, s.reason = id, 'replaced'
    return s
  end
end

-- Which of a user's sessions must go before there is room for one more, and how many live; those
-- that are moving away are not counted, nor is the one that is replaced. The policy is 0 to refuse,
-- 1 for the oldest, 2 for the one whose last activity is longest ago.
local function crowd(base, user, id, given, now, cap, policy)
  local live = {}
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', base .. 'u:' .. user, '(' .. now, '+inf')) do
    local s = other ~= id and other ~= given and passing(base .. 's:' .. other)
    if s and not s.move and not revoked(base, s) then
      s.id, s.order = other, policy == 2 and s.last or s.created
      live[#live + 1] = s
    end
  end
  table.sort(live, function(one, other)
    if one.order == other.order then
      return before(one.id, other.id)
    end
    return one.order < other.order
  end)
  local leaving = {}
  for i = 1, #live - cap + 1 do
    leaving[i] = live[i]
    sound(base, live[i])
  end
  return leaving, #live
end
