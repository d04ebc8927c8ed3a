-- Lists conversations that live, those that end first first.
-- KEYS[1] the index
-- ARGV[1] when the last one that is known ends, in ms; empty: from the beginning
-- ARGV[2] its id
-- ARGV[3] how many
-- Answer: {count, {when it ends in ms, in how many ms that is, id}, …}
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Byte by byte: the server's locale has no say.
local function behind(a, b)
  for i = 1, math.min(#a, #b) do
    if string.byte(a, i) ~= string.byte(b, i) then
      return string.byte(a, i) > string.byte(b, i)
    end
  end
  return #a > #b
end
local after = tonumber(ARGV[1])
local from = math.max(now, after or 0)
local answer, passed, most = {0}, 0, tonumber(ARGV[3])
while #answer <= most do
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', from), '+inf',
    'WITHSCORES', 'LIMIT', passed, 128)
  for i = 1, #found, 2 do
    local ends = tonumber(found[i + 1])
    if #answer <= most and (ends ~= after or behind(found[i], ARGV[2])) then
      answer[#answer + 1] = {ends, ends - now, found[i]}
    end
  end
  if #found < 256 then
    break
  end
  passed = passed + 128
end
answer[1] = #answer - 1
return answer
