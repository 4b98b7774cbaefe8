-- Add to one whole number of a session that exists and whose secret the request knows.
--
-- KEYS: session      ARGV: 1 secret   2 idle timeout (ms), 0 for none   3 key   4 what to add
-- Returns the new value as text (a Lua number would be exact to 53 bits only), 4 where no whole
-- number is stored or the sum leaves 64 bits, 5 where this secret was replaced by one that may be
-- taken back, -1 where there is no such session for it.
local meta = read(KEYS[1])
if not meta then return -1 end
if meta.err then return meta end
local who = standing(KEYS[1], meta, ARGV[1])
if barred(who) then return barred(who) end
local added = redis.pcall('HINCRBY', KEYS[1], ARGV[3], ARGV[4])
if type(added) == 'table' then return 4 end
settle(KEYS[1], who)
meta.seen = now
write(KEYS[1], meta, tonumber(ARGV[2]))
return redis.call('HGET', KEYS[1], ARGV[3])
