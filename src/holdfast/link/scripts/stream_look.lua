-- Say what is known of a run without reading its events. It writes nothing.
--
-- KEYS: stream, meta
-- Returns {how many events are kept, 1 where another program has added some, meta's fields}.
local stream, meta = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'life', 'n', 'last', 'end', 'gone', 'owner')
local length = redis.call('XLEN', stream)
if length == 0 then return {0, 0, m} end
-- As in stream_publish: the smallest id after the last one of which meta knows.
local last = m[3] or '0-0'
local ms, seq = string.match(last, '^(%d+)-(%d+)$')
local from = #seq > 15 and last or string.format('%s-%.0f', ms, seq + 1)
for _, entry in ipairs(redis.call('XRANGE', stream, from, '+', 'COUNT', 2)) do
  if entry[1] ~= last then return {length, 1, m} end
end
return {length, 0, m}
