-- Destroy a session whatever its secret, and leave a tombstone: nothing late brings it back.
--
-- KEYS: session, tombstone      ARGV: 1 how long the tombstone stays (ms)
-- Returns how many sessions were there: 1 or 0.
return destroy(KEYS[1], KEYS[2], ARGV[1])
