-- Reads the former values of a document, the newest first.
-- KEYS[1] the former values
-- ARGV[1] how many at the most
-- Answer: {count, {version, updated in µs, value}, …}; {-1} one of them cannot be read
-- Safe to run twice: it changes nothing.
local entries = redis.call('LRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)
local answer = {#entries}
for i, entry in ipairs(entries) do
  local version = tonumber(string.sub(entry, 1, 16))
  local updated = tonumber(string.sub(entry, 17, 32))
  if not version or not updated then
    return {-1}
  end
  answer[i + 1] = {version, updated, string.sub(entry, 33)}
end
return answer
