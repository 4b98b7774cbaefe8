-- Take back a rotation of which its browser was never told: it was refused, and done all the same.
--
-- KEYS: session      ARGV: 1 the secret that nobody has   2 the one before, which the browser has
-- Returns 1 where it was taken back, 0 where another secret is there, -1 where there is no session.
local meta = read(KEYS[1])
if not meta then return -1 end
if meta.err then return meta end
if meta.secret ~= ARGV[1] then return 0 end
local olds = {}
for kind, hash, till in string.gmatch(redis.call('HGET', KEYS[1], OLD) or '', '(%a):(%x+):(%d+)') do
  if hash ~= ARGV[2] then olds[#olds + 1] = kind .. ':' .. hash .. ':' .. till end
end
if #olds > 0 then
  redis.call('HSET', KEYS[1], OLD, table.concat(olds, ';'))
else
  redis.call('HDEL', KEYS[1], OLD)
end
meta.secret = ARGV[2]
write(KEYS[1], meta, 0)
return 1
