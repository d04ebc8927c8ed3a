-- Tells the time of the server that a key is at, of which nothing is asked.
-- Answer: {1, now}
-- Safe to run twice: it changes nothing.
return {1, clock()}
