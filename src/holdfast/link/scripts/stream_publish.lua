-- Append a batch of events to a run: the one way in which holdfast writes a stream.
--
-- KEYS: stream, meta (one slot: meta is '{' .. stream .. '}:meta')
-- ARGV: 1 doorbell channel   2 producer        3 number of the first event   4 maxlen
--       5 byte budget        6 retention (ms)  7 how much longer meta is kept (ms)
--       8 the life to begin, if this write begins one   9 the only life to write to, or ''
--      10 owner, kept if this write creates the run    11 … type, data of each event
-- Without events it registers what other programs wrote, and gives the stream its expiry.
--
-- Returns {status, life, n, previous id, already written, id, id, …}; status is 'ok', 'ended', 'expired' or 'fenced'.
-- There is no rollback in Lua: everything is checked before the first write.
local stream, meta = KEYS[1], KEYS[2]
local producer, first_seq = ARGV[2], tonumber(ARGV[3])
local retention, meta_retention = tonumber(ARGV[6]), tonumber(ARGV[6]) + tonumber(ARGV[7])
local FIRST, count = 11, (#ARGV - 10) / 2
local TERMINAL = {workflow_complete = true, workflow_error = true, run_stopped = true, run_lost = true}

local m = redis.call('HMGET', meta, 'life', 'n', 'last', 'bytes', 'length', 'end', 'cut', 'gone', 's:' .. producer)
local life, n, last = m[1], tonumber(m[2] or 0), m[3] or '0-0'
local bytes, length, ended, cut = tonumber(m[4] or 0), tonumber(m[5] or 0), m[6], tonumber(m[7] or 0)
local gone, last_seq = m[8], tonumber(m[9] or 0)
local kept = redis.call('XLEN', stream)

if ARGV[9] ~= '' and (ARGV[9] ~= life or gone) then
  return {'fenced', life or '', n, last, 0}
end

-- A retry after a lost reply: what this producer already wrote is answered, never written again.
local written = 0
if first_seq > 0 and first_seq <= last_seq then
  written = math.min(last_seq - first_seq + 1, count)
end
local function ids_of_written()
  local found, from, wanted = {}, '+', written
  for i = 1, written do found[i] = '' end
  while wanted > 0 do
    local page = redis.call('XREVRANGE', stream, from, '-', 'COUNT', 100)
    for i, entry in ipairs(page) do
      local f = {}
      for k = 1, #entry[2], 2 do f[entry[2][k]] = entry[2][k + 1] end
      local at = f.p == producer and tonumber(f.s) - first_seq + 1
      if at and at >= 1 and at <= written and found[at] == '' then
        found[at], wanted = entry[1], wanted - 1
      elseif at and at < 1 then
        wanted = 0
      end
    end
    if #page < 100 or from == page[#page][1] then break end
    from = page[#page][1]
  end
  return found
end
if written == count and count > 0 then
  return {'ok', life, n, last, written, unpack(ids_of_written())}
end

if life and not gone and not ended and n > 0 and kept == 0 then
  return {'expired', life, n, last, written}
end

-- What another program added with a bare XADD counts too: it moved the length we left behind.
local function register()
  local from = last
  while true do
    local page = redis.call('XRANGE', stream, from, '+', 'COUNT', 500)
    for _, entry in ipairs(page) do
      if entry[1] ~= from then
        n, last = n + 1, entry[1]
        for k = 1, #entry[2], 2 do
          local name, value = entry[2][k], entry[2][k + 1]
          if name == 'type' and TERMINAL[value] and not ended then ended = last .. ' - 0' end
          if name == 'type' or name == 'data' then bytes = bytes + #value end
        end
      end
    end
    if #page < 500 then return end
    from = last
  end
end
local begins = not life or gone
if begins then
  if count == 0 and kept == 0 then return {'ok', '', 0, last, 0} end
  life, n, bytes, length, ended, cut = ARGV[8], 0, 0, 0, false, 0
end
local before = n
if kept ~= length then register() end

if ended and written < count then
  if n ~= before then redis.call('HSET', meta, 'n', n, 'last', last, 'length', kept, 'end', ended) end
  return {'ended', life, n, last, written, unpack(ids_of_written())}
end
for i = written + 1, count - 1 do
  if TERMINAL[ARGV[FIRST + 2 * (i - 1)]] then return {'ended', life, n, last, written} end
end

-- Ids only grow, also over a deletion, a lost stream and a clock that was set back.
local function fresh_id()
  if n > 0 or last == '0-0' then return '*' end
  local ms, seq = string.match(last, '^(%d+)-(%d+)$')
  local now = redis.call('TIME')
  if now[1] * 1000 + math.floor(now[2] / 1000) > tonumber(ms) then return '*' end
  return string.format('%s-%d', ms, tonumber(seq) + 1)
end

local reply = {'ok', life, 0, n > 0 and last or '0-0', written, unpack(written > 0 and ids_of_written() or {})}
for i = written + 1, count do
  local kind, data = ARGV[FIRST + 2 * (i - 1)], ARGV[FIRST + 2 * i - 1]
  local id, previous = fresh_id(), n > 0 and last or '0-0'
  n, bytes = n + 1, bytes + #kind + #data
  last = redis.call('XADD', stream, 'MAXLEN', '~', ARGV[4], id, 'type', kind, 'data', data,
    'n', n, 'q', previous, 'b', bytes, 'p', producer, 's', first_seq + i - 1)
  if TERMINAL[kind] then ended = string.format('%s %s %d', last, producer, first_seq + i - 1) end
  reply[#reply + 1] = last
end
reply[3] = n

-- MAXLEN bounds no bytes. 'cut' is how many bytes are known to be gone; an old payload is read only while the
-- budget seems exceeded, about once for each entry that goes.
local budget = tonumber(ARGV[5])
while bytes - cut > budget and redis.call('XLEN', stream) > 1 do
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local size, up_to = 0, nil
  for k = 1, #oldest[2], 2 do
    local name, value = oldest[2][k], oldest[2][k + 1]
    if name == 'b' then up_to = tonumber(value) end
    if name == 'type' or name == 'data' then size = size + #value end
  end
  if up_to then cut = math.max(cut, up_to - size) end
  if bytes - cut <= budget then break end
  redis.call('XDEL', stream, oldest[1])
  cut = cut + size
end

redis.call('HSET', meta, 'life', life, 'n', n, 'last', last, 'bytes', bytes, 'cut', cut,
  'length', redis.call('XLEN', stream))
if count > 0 then redis.call('HSET', meta, 's:' .. producer, first_seq + count - 1) end
if ended then redis.call('HSET', meta, 'end', ended) end
if begins then
  redis.call('HDEL', meta, 'gone')
  if not ended then redis.call('HDEL', meta, 'end') end
  if ARGV[10] ~= '' then redis.call('HSET', meta, 'owner', ARGV[10]) else redis.call('HDEL', meta, 'owner') end
end
if count > 0 or redis.call('PTTL', stream) == -1 then
  redis.call('PEXPIRE', stream, retention)
  redis.call('PEXPIRE', meta, meta_retention)
end
if count > 0 or n ~= before then redis.call('PUBLISH', ARGV[1], life .. ':' .. n) end
return reply
