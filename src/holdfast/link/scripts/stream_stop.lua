-- Ask a run to stop: a mark that stays, and a ring for whoever publishes it now.
--
-- KEYS: stream, meta      ARGV: 1 the channel to ring    2 how long it waits for its run (ms)
-- Returns 'requested', 'ended' or 'expired'.
local call = redis.call
local stream, meta = KEYS[1], KEYS[2]
local m = call('HMGET', meta, 'life', 'gone', 'n', 'end', 'transport')
local there = m[1] and not m[2]
if there then
  if tonumber(m[3] or 0) > 0 and not m[5] and call('XLEN', stream) == 0 then return 'expired' end
  if m[4] then return 'ended' end
end
local time = call('TIME')
call('HSET', meta, 'stop', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
-- Without a life this is all there is of the run.
if not m[1] then call('PEXPIRE', meta, ARGV[2]) end
call('PUBLISH', ARGV[1], '')
return 'requested'
