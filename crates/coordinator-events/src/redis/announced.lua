-- How much was announced on a topic.
-- KEYS[1] the count
-- Answer: {1, number of the last}; {1, 0} nothing for a while
-- Safe to run twice: it changes nothing.
return {1, tonumber(redis.call('GET', KEYS[1]) or 0)}
