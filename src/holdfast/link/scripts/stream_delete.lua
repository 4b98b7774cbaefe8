-- Remove a run's events. Meta keeps its life and last id, so that the ids of a next life lie beyond them.
--
-- KEYS: stream, meta      ARGV: 1 doorbell channel   2 how long meta is kept (ms)
-- Returns 1 where there was something to remove, else 0.
local stream, meta = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'life', 'gone')
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if not newest and (not m[1] or m[2]) then return 0 end
if newest then redis.call('HSET', meta, 'last', newest[1]) end
redis.call('DEL', stream)
redis.call('HSET', meta, 'gone', 1, 'life', m[1] or '-')
redis.call('HDEL', meta, 'end', 'owner', 'n', 'bytes', 'length', 'cut')
redis.call('PEXPIRE', meta, ARGV[2])
redis.call('PUBLISH', ARGV[1], '')
return 1
