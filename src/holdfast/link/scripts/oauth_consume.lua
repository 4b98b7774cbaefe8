-- Hand out a pending login, once, to the browser that began it; to any other it stays as it is, so
-- that who has seen a victim's state cannot use it up.
--
-- KEYS: login   ARGV: SHA-256 of each id that the browser has
-- Returns the data, or nil where there is none, or 0 where it is another browser's.
local record = redis.call('GET', KEYS[1])
if not record then return false end
local browser, expires, data = string.match(record, '^1 (%x+) (%d+) (.*)$')
local time = redis.call('TIME')
-- A key may have lost its own expiry (PERSIST, RESTORE): the record has it too.
if not browser or tonumber(expires) <= time[1] * 1000 + math.floor(time[2] / 1000) then
  redis.call('DEL', KEYS[1])
  return false
end
for _, proof in ipairs(ARGV) do
  if proof == browser then
    redis.call('DEL', KEYS[1])
    return data
  end
end
return 0
