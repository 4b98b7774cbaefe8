-- Destroy a session whatever its secret, and leave a tombstone: nothing late brings it back.
--
-- KEYS: session, tombstone      ARGV: 1 how long the tombstone stays (ms)
-- Returns how many sessions were there: 1 or 0.
redis.call('SET', KEYS[2], 1, 'PX', ARGV[1])
local gone = redis.call('DEL', KEYS[1])
if gone == 1 then ended(KEYS[1], '') end
return gone
