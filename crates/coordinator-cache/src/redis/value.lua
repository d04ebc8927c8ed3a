-- Shared: what scripts know of an envelope, the same in every format.
-- Safe to run twice: it changes nothing.
local MAGIC, HEAD, VERSION_AT, SOFT_AT = '\12', 52, 8, 16

-- The version of an envelope; nil if it is none.
local function version_of(value)
  if value and #value >= HEAD and string.sub(value, 1, 1) == MAGIC then
    return string.sub(value, VERSION_AT + 1, VERSION_AT + 8)
  end
end
