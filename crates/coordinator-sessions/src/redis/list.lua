-- Lists the living sessions of an index, those that expire first before the others.
-- KEYS[1] the index; named with a key that is never there, so that a slot that
--         moves is refused
-- ARGV[1] what it is called in its shard
-- ARGV[2] behind which expiry in ms
-- ARGV[3] behind which id
-- ARGV[4] how many to look at
-- Answer: {now in ms, whether there are more, expiry and id of the last looked at, {how many cannot
--         be read, expiry and id of each}, {…}, …}: each its id and what `told` tells
-- Safe to run twice: it changes nothing.
local base = string.sub(KEYS[1], 1, -#ARGV[1] - 1)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local score, after, limit = math.max(tonumber(ARGV[2]), now), ARGV[3], tonumber(ARGV[4])
if tonumber(ARGV[2]) < now then
  after = '~'
end
local from = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. string.format('%.0f', score))
local answer, looked, at = {now, 0, score, after, {0}}, 0, from
local unreadable = answer[5]
while looked < limit do
  local page = redis.call('ZRANGE', KEYS[1], at, at + limit - 1, 'WITHSCORES')
  for i = 1, #page, 2 do
    local id, expiry = page[i], tonumber(page[i + 1])
    if (expiry > score or before(after, id)) and looked < limit then
      looked, answer[3], answer[4] = looked + 1, expiry, id
      local readable, code, s = pcall(standing, base, id, '', now)
      if not readable then
        -- One that is broken must not be in the way of others.
        unreadable[1] = unreadable[1] + 1
        unreadable[#unreadable + 1], unreadable[#unreadable + 2] = expiry, id
      elseif code == 1 then
        answer[#answer + 1] = told(base, id, s, now, {id})
      end
    end
  end
  at = at + limit
  if #page < 2 * limit then
    break
  end
end
answer[2] = looked == limit and 1 or 0
return answer
