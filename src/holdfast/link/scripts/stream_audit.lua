-- Say which of many runs are not as a reader knows them. It writes nothing.
--
-- KEYS: stream, meta of each run
-- ARGV: of each the last id, its number, the life or '', and 1 where the run has ended
-- Returns the places, from 1, of those that want a closer look. Whatever is odd does.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count, found = #KEYS / 2, {}

-- One XREAD for all: it asks for what follows an id without looking at a stream that has nothing.
local read = {'XREAD', 'COUNT', 1, 'STREAMS'}
for i = 1, count do read[4 + i], read[4 + count + i] = KEYS[2 * i - 1], ARGV[4 * i - 3] end
local news, has_news = redis.pcall(unpack(read)), {}
local broken = news and news.err
-- Before Redis 6 no script may ask so, and each stream is asked alone.
local refused = broken and not string.find(broken, 'WRONGTYPE', 1, true)
if refused then broken = false end
for i = 1, refused and count or 0 do
  local last = ARGV[4 * i - 3]
  local entries = redis.pcall('XRANGE', KEYS[2 * i - 1], last, '+', 'COUNT', 2)
  local next = not entries.err and entries[entries[1] and entries[1][1] == last and 2 or 1]
  has_news[KEYS[2 * i - 1]] = entries.err or next
end
for i = 1, news and not news.err and #news or 0 do has_news[news[i][1]] = true end

local function lapsed(lease)
  local till = tonumber(string.match(lease, ' (%d+)$'))
  return till and till > 0 and till < now
end

-- A run that never ended, whose events are kept no longer.
local function expired(stream, n, meta, known)
  return n ~= '0' and not meta[4] and not meta[6] and known == '0' and redis.pcall('EXISTS', stream) == 0
end

for i = 1, count do
  local m = redis.pcall('HMGET', KEYS[2 * i], 'n', 'last', 'life', 'end', 'gone', 'transport', 'lease')
  local n = not m.err and m[1] or '0'
  -- A run that has begun without an event follows no event of an earlier life.
  local last = n ~= '0' and m[2] or '0-0'
  if m.err or broken or has_news[KEYS[2 * i - 1]] or m[5] or m[6] or last ~= ARGV[4 * i - 3]
    or n ~= ARGV[4 * i - 2] or (m[3] or '') ~= ARGV[4 * i - 1] or (m[4] and '1' or '0') ~= ARGV[4 * i]
    or m[7] and lapsed(m[7]) or expired(KEYS[2 * i - 1], n, m, ARGV[4 * i]) then
    found[#found + 1] = i
  end
end
return found
