-- Destroy a session whatever its secret, and leave a tombstone: nothing late brings it back.
--
-- KEYS: session, tombstone      ARGV: 1 how long the tombstone stays (ms)
-- Returns how many sessions were there: 1 or 0.
redis.call('SET', KEYS[2], 1, 'PX', ARGV[1])
return redis.call('DEL', KEYS[1])
