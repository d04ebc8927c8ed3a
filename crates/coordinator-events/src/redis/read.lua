-- Reads a page of a scope's events.
-- KEYS[1] the stream
-- ARGV[1] the id from which on, itself included; `-` for the first there is, `$` for the last
-- ARGV[2] how many at most
-- ARGV[3] after how many bytes it is enough
-- Answer: {0} there is no stream; {1, last id there ever was, number of events, id, id before it or
--         *, nonce and envelope, …}: an id before it stands where an epoch begins, empty if none
-- Safe to run twice: it changes nothing.
local last = newest(KEYS[1])
if not last then
  return {0}
end
local answer, bytes = {1, last, 0}, 0
local function tell(entries)
  for _, entry in ipairs(entries) do
    local before, body = '*', ''
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'p' then
        before = entry[2][i + 1]
      elseif entry[2][i] == 'e' then
        body = entry[2][i + 1]
      end
    end
    local at = #answer
    answer[at + 1], answer[at + 2], answer[at + 3] = entry[1], before, body
    bytes = bytes + #body
  end
  answer[3] = answer[3] + #entries
end
if ARGV[1] == '$' then
  tell(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1))
  return answer
end
-- Two at first, and never many, for these may be long: whoever reads on begins with what he has.
local from, left, some = ARGV[1], tonumber(ARGV[2]), 2
repeat
  local asked = math.min(some, left)
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', asked)
  tell(entries)
  left, some = left - #entries, 8
  from = '(' .. answer[#answer - 2]
until #entries < asked or left == 0 or bytes >= tonumber(ARGV[3])
return answer
