-- Shared: what is recorded of a limit that is nearly used up; it stands behind `denied.lua`.
-- Safe to run twice: once in a span is once.
local function approached(key, near, used, taken, t, span, limit, cost)
  if used >= near and used - taken < near then
    local mark = string.gsub(key, '}:use:', '}:near:', 1)
    if redis.call('SET', mark, '1', 'NX', 'PX', math.ceil(span / 1000) + 1) then
      record(key, 'near', t, span, limit, cost, used, 1, 0)
    end
  end
end
