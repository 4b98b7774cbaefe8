-- Remove a run's events. Meta keeps its life and last id, so that the ids of a next life lie beyond
-- them and a publisher of this one is known.
--
-- KEYS: stream, meta      ARGV: 1 doorbell channel   2 how long meta is kept (ms)
-- Returns 1 where there was something to remove, else 0.
local stream, meta = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'life', 'gone', 'last')
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if not newest and (not m[1] or m[2]) then return 0 end
-- The newest entry is not the newest id where that one was removed alone.
local last = m[3] or '0-0'
local function parts(id) return tonumber(string.match(id, '^%d+')), tonumber(string.match(id, '%d+$')) end
if newest then
  local ms, seq = parts(newest[1])
  local known_ms, known_seq = parts(last)
  if ms > known_ms or (ms == known_ms and seq > known_seq) then last = newest[1] end
end
redis.call('DEL', stream)
redis.call('HSET', meta, 'gone', 1, 'life', m[1] or '0', 'last', last)
redis.call('HDEL', meta, 'end', 'owner', 'n', 'bytes', 'cut', 'kept', 'lease', 'stop', 'transport')
-- The next life of the id has keys of its own.
if redis.call('HDEL', meta, 'keys') == 1 then
  for _, field in ipairs(redis.call('HKEYS', meta)) do
    if string.match(field, '^[kq]:') then redis.call('HDEL', meta, field) end
  end
end
redis.call('PEXPIRE', meta, ARGV[2])
redis.call('PUBLISH', ARGV[1], '')
return 1
