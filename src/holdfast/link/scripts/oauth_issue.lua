-- Keep a pending login, unless another browser has one of that name.
--
-- KEYS: login   ARGV: 1 SHA-256 of the browser's id   2 lifetime (ms)   3 data
-- Returns 1, or 0 where the name is taken.
local time = redis.call('TIME')
local expires = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
local taken = redis.call('GET', KEYS[1])
-- The same browser again is the retry of a call whose answer was lost.
if taken and string.match(taken, '^1 (%x+) ') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], string.format('1 %s %.0f ', ARGV[1], expires) .. ARGV[3], 'PX', ARGV[2])
return 1
