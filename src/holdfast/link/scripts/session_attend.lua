-- Note that a process is there, and say which Redis this is: its data by 'epoch', its life by run id,
-- and how old its data is by when the process was here before.
--
-- KEYS: the hash of the processes, a field each: when it was last here (ms). 'epoch' is none of them.
-- ARGV: 1 the process   2 an epoch, for where there is none   3 how long a silent one counts (ms)
--       4 how long it is remembered (ms)   5 count the others that were here after this (ms)
-- Returns the epoch, the run id ('' where it may not be asked), when the process was here before
-- ('' for never), how many others, and the time (ms).
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('HEXISTS', KEYS[1], 'epoch') == 0 then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
end
local before = redis.call('HGET', KEYS[1], ARGV[1]) or ''
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now))
local others, all = 0, redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local here = all[at] ~= 'epoch' and all[at] ~= ARGV[1] and tonumber(all[at + 1])
  if here and here + tonumber(ARGV[4]) < now then
    redis.call('HDEL', KEYS[1], all[at])
  elseif here and here > math.max(tonumber(ARGV[5]), now - tonumber(ARGV[3])) then
    others = others + 1
  end
end
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
return {redis.call('HGET', KEYS[1], 'epoch'), run, before, others, string.format('%.0f', now)}
