-- Deletes a value that cannot be read, if it is still that one, or what is of another type.
-- KEYS[1] ears
-- KEYS[2] the value
-- ARGV[1] how it begins
-- ARGV[2] how long it is in bytes
-- Answer: {1} done; {0} it is another
-- Safe to run twice: the second finds none.
if is_text(KEYS[2]) and (redis.call('STRLEN', KEYS[2]) ~= tonumber(ARGV[2])
  or redis.call('GETRANGE', KEYS[2], 0, #ARGV[1] - 1) ~= ARGV[1]) then
  return {0}
end
if redis.call('UNLINK', KEYS[2]) == 0 then
  return {0}
end
tell(KEYS[1], {KEYS[2]})
return {1}
