-- Store a new session, unless its id is taken or was destroyed a while ago.
--
-- KEYS: session, tombstone ('{' .. session .. '}:gone', so that both share a slot)
-- ARGV: 1 secret   2 lifetime (ms)   3 idle timeout (ms), 0 for none
--       4 age (ms): how long ago it was created, where it was born while Redis was away
--       5 … key, value of each
-- Returns 1, or 0 where the id is taken, or -1 where it was destroyed.
if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
  local taken = read(KEYS[1])
  if not taken or taken.err then return 0 end
  -- The same secret again is the retry of a call whose answer was lost.
  return taken.secret == ARGV[1] and 1 or 0
end
local created = now - tonumber(ARGV[4])
local expires = created + tonumber(ARGV[2])
if expires <= now then return -1 end
-- In slices, because Lua unpacks some thousand values at most.
for first = 5, #ARGV, 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
write(KEYS[1], {secret = ARGV[1], created = created, expires = expires, seen = now, since = created},
  tonumber(ARGV[3]))
return 1
