-- Take back a rotation of which its browser was never told: it was refused, and done all the same.
--
-- KEYS: session, tombstone
-- ARGV: 1 the secret that nobody has   2 0; or how long a tombstone stays (ms) where the session ends
--       with it, because what was written along with that secret cannot be taken back
--       3 … key, '=' .. value or '-' for none: what was there before, of each key that was written
-- Returns 1 taken back, 2 ended, 0 where another secret is there, -1 where there is no session.
local meta = read(KEYS[1])
if not meta then return -1 end
if meta.err then return meta end
-- The one it replaced, which is the last: who asked may have had an older one, in its grace.
local old = redis.call('HGET', KEYS[1], OLD) or ''
local rest, before = string.match(old, '^(.-);?%a:(%x+):%d+$')
if meta.secret ~= ARGV[1] or not before then return 0 end
if tonumber(ARGV[2]) > 0 then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[2], 1, 'PX', ARGV[2])
  ended(KEYS[1], '')
  return 2
end
if rest ~= '' then
  redis.call('HSET', KEYS[1], OLD, rest)
else
  redis.call('HDEL', KEYS[1], OLD)
end
for at = 3, #ARGV, 2 do
  if ARGV[at + 1] == '-' then
    redis.call('HDEL', KEYS[1], ARGV[at])
  else
    redis.call('HSET', KEYS[1], ARGV[at], string.sub(ARGV[at + 1], 2))
  end
end
meta.secret = before
write(KEYS[1], meta, 0)
return 1
