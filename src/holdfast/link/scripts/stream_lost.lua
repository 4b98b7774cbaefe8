-- Note that events of a run are gone that its publisher was told are stored: a failover lost them.
--
-- KEYS: stream, meta
-- ARGV: 1 doorbell channel   2 the generation of the life that they belong to
-- Returns 1 where it is noted, else 0: the run is not there, or has another life, or nothing before
-- them is left that a reader could have.
--
-- They are counted as one event that nobody has, so that the next one follows none that a reader may
-- have seen.
local call, stream, meta = redis.call, KEYS[1], KEYS[2]
local m = call('HMGET', meta, 'life', 'n', 'last', 'gone', 'end', 'transport')
local ms, seq = string.match(m[3] or '', '^(%d+)-(%d+)$')
if not m[1] or string.match(m[1], '^%d+') ~= ARGV[2] or m[4] or m[5] or m[6] then return 0 end
if not ms or call('XLEN', stream) == 0 then return 0 end
local n = tostring(m[2] + 1)
call('HSET', meta, 'n', n, 'last', string.format('%s-%.0f', ms, seq + 1))
call('PUBLISH', ARGV[1], m[1] .. ':' .. n)
return 1
