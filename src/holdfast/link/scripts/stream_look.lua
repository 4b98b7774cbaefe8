-- Say what is known of a run without reading its events. It writes nothing.
--
-- KEYS: stream, meta
-- Returns {how many events are kept, 1 where another program has written, meta's fields, who held the
-- lease that has lapsed or ''}; written: where it has added an event, or a stream that would stay
-- for ever.
local stream, meta = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'life', 'n', 'last', 'end', 'gone', 'owner', 'transport')
local length = redis.call('XLEN', stream)
local last = m[3] or '0-0'
local more = length > 0 and not m[7] and redis.pcall('XREAD', 'COUNT', 1, 'STREAMS', stream, last)
if more and more.err then  -- no script may ask so before Redis 6
  local entries = redis.call('XRANGE', stream, last, '+', 'COUNT', 2)
  if entries[1] and entries[1][1] == last then table.remove(entries, 1) end
  more = {{stream, entries}}
end
local foreign = more and #more[1][2] > 0 or length > 0 and redis.call('PTTL', stream) == -1
local lapsed, lease = '', redis.call('HGET', meta, 'lease')
if lease then
  local holder, till = string.match(lease, '^(%S+) (%d+)$')
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if holder and tonumber(till) > 0 and tonumber(till) < now then lapsed = holder end
end
return {length, foreign and 1 or 0, m, lapsed}
