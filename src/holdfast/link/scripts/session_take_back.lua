-- Take back a rotation of which its browser was never told: it was refused, and done all the same.
-- With it goes what was written in the same step for the bearer of the new secret alone. A logout is
-- obeyed: nobody has the new secret and nobody may have the old one, and so the session ends.
--
-- KEYS: session, tombstone      ARGV: 1 the secret that nobody has   2 how long a tombstone stays (ms)
-- Returns 1 where it was taken back, 0 where another secret is there or somebody has come with this
-- one, -1 where there is no session.
local meta = read(KEYS[1])
if not meta then return -1 end
if meta.err then return meta end
if meta.secret ~= ARGV[1] then return 0 end
local _, replaced = olds_of(KEYS[1])
if not replaced then return 0 end
if string.sub(replaced, 1, 1) == '!' then
  return destroy(KEYS[1], KEYS[2], ARGV[2])
end
local MEANT = {['0'] = '%', ['1'] = ':', ['2'] = '|'}
local parts = {}
for part in string.gmatch(replaced .. '|', '([^|]*)|') do
  parts[#parts + 1] = string.gsub(part, '%%(%d)', MEANT)
end
for at = 3, #parts, 2 do
  if parts[at + 1] == '-' then
    redis.call('HDEL', KEYS[1], parts[at])
  else
    redis.call('HSET', KEYS[1], parts[at], string.sub(parts[at + 1], 2))
  end
end
if parts[2] == '' then
  redis.call('HDEL', KEYS[1], OLD)
else
  redis.call('HSET', KEYS[1], OLD, parts[2])
end
local before = parsed(parts[1])
before.seen = meta.seen
write(KEYS[1], before, 0)
return 1
