-- Shared: tells who cannot track keys which ones changed; the channel has the name of the key that
-- says that somebody listens.
-- Safe to run twice: whoever is told twice looks once more.
local function tell(ears, changed)
  if #changed > 0 and redis.call('EXISTS', ears) == 1 then
    local text = table.concat(changed, ' ')
    -- Before 7.0 there are no channels of a shard.
    if type(redis.pcall('SPUBLISH', ears, text)) == 'table' then
      redis.pcall('PUBLISH', ears, text)
    end
  end
end
