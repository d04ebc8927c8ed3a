-- Reads the newest entries of the log, each once, however often it was delivered.
-- KEYS[1] the log
-- ARGV[1] how long ago they may have happened, in µs
-- ARGV[2] how many to tell at the most
-- Answer: {count, {at in µs, what it says}, …}, the newest first.
-- Safe to run twice: it changes nothing.
local time = redis.call('TIME')
local oldest = math.max(time[1] * 1000000 + time[2] - tonumber(ARGV[1]), 0)
-- Nothing is written before it has happened.
local first = string.format('%.0f', math.floor(oldest / 1000))
local last, seen, answer = '+', {}, {0}
repeat
  local page = redis.call('XREVRANGE', KEYS[1], last, first, 'COUNT', 500)
  for _, entry in ipairs(page) do
    last = '(' .. entry[1]
    local at, id = tonumber(entry[2][2]), entry[2][4]
    if at >= oldest and not seen[id] and answer[1] < tonumber(ARGV[2]) then
      seen[id] = true
      answer[1] = answer[1] + 1
      answer[answer[1] + 1] = {at, entry[2][6]}
    end
  end
until #page < 500 or answer[1] >= tonumber(ARGV[2])
return answer
