-- Append a batch to a run of which its publisher knows the end: stream_publish without what is then
-- known not to be asked for. It writes what that would have written, or nothing.
--
-- KEYS: stream, meta
-- ARGV: 1 doorbell channel   2 life   3 last id   4 when the expiry was last set (ms): these three as
--         the publisher knows them
--       5 maxlen   6 's:' and the producer   7 number of its last event here   8 bytes of the life then
--       9 … type, data, number in this life, what follows the id before it in h, of each event
-- Returns the ids, the id alone of a single event, or what says that nothing was written: false where
-- the run is not as it is known, '' where no script may ask (XREAD before Redis 6).
--
-- An id is given once: where 'last' is the same, so is everything that a write changes with it, and
-- none of these events is stored yet. What changes without it is compared (kept, which a deletion takes,
-- end and stop), and so is the stream, which others write and which expires.
local call, stream, meta = redis.call, KEYS[1], KEYS[2]
local m = call('HMGET', meta, 'life', 'last', 'kept', 'end', 'stop')
local last = m[2]
if m[1] ~= ARGV[2] or last ~= ARGV[3] or m[3] ~= ARGV[4] or m[4] or m[5] then return false end
if call('XLEN', stream) == 0 then return false end
local news = redis.pcall('XREAD', 'COUNT', 1, 'STREAMS', stream, last)
if news then return news.err and '' or false end

local reply, count, carried = {}, #ARGV - 8, ''
for i = 9, #ARGV, 4 do
  local kind, data, h = ARGV[i], ARGV[i + 1], ARGV[i + 2] .. ' ' .. last .. ARGV[i + 3]
  last = call('XADD', stream, 'MAXLEN', '~', ARGV[5], '*', 'type', kind, 'data', data, 'h', h)
  if count == 4 and #data <= 4096 then
    carried = '\n' .. last .. ' ' .. h .. '\n' .. kind .. '\n' .. data
  end
  reply[#reply + 1] = last
end
local n = ARGV[#ARGV - 1]
call('HSET', meta, 'n', n, 'last', last, 'bytes', ARGV[8], ARGV[6], ARGV[7])
call('PUBLISH', ARGV[1], ARGV[2] .. ':' .. n .. carried)
return count == 4 and last or reply
