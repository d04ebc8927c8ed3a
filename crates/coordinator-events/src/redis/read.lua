-- Reads a page of a scope's events.
-- KEYS[1] the stream
-- ARGV[1] the id from which on, itself included; `-` for the first there is, `$` for the last
-- ARGV[2] how many at most
-- Answer: {0} there is no stream; {1, last id there ever was, number of events, id, id before it or
--         *, nonce and envelope, …}: an id before it stands where an epoch begins, empty if none
-- Safe to run twice: it changes nothing.
local last = newest(KEYS[1])
if not last then
  return {0}
end
local entries = nil
if ARGV[1] == '$' then
  entries = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
else
  entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
end
local answer = {1, last, #entries}
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
end
return answer
