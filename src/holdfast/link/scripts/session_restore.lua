-- Put back a session that Redis has lost, or of which it has an older life, from a process's copy.
--
-- KEYS: session, tombstone
-- ARGV: 1 secret   2 how long ago it was created   3 how long it may live on   4 how long ago the
--       secret was made   5 how long ago it was seen   6 how long a killed secret is known (all ms)
--       7 … key, value of each
-- Returns 1 where it was put back, 0 where it is there already, -1 where it has ended.
if redis.call('EXISTS', KEYS[2]) == 1 or tonumber(ARGV[3]) <= 0 then return -1 end
local since, killed = now - tonumber(ARGV[4]), nil
if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
  local found = read(KEYS[1])
  -- A newer secret than the copy's is somebody's later word; an older one comes back from the dead.
  if not found or found.err or found.secret == ARGV[1] then return 0 end
  if tonumber(found.since) >= since then return 0 end
  killed = found.secret
  redis.call('DEL', KEYS[1])
end
for first = 7, #ARGV, 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if killed then
  redis.call('HSET', KEYS[1], OLD, string.format('k:%s:%.0f', killed, now + tonumber(ARGV[6])))
  ended(KEYS[1], ARGV[1])
end
write(KEYS[1], {secret = ARGV[1], created = now - tonumber(ARGV[2]), since = since,
  expires = now + tonumber(ARGV[3]), seen = now - tonumber(ARGV[5])}, 0)
return 1
