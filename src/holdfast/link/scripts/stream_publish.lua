-- Append a batch of events to a run: the one way in which holdfast writes a stream.
--
-- KEYS: stream, meta (one slot: meta is '{' .. stream .. '}:meta')
-- ARGV: 1 doorbell channel   2 producer        3 number of the first event   4 maxlen
--       5 byte budget        6 retention (ms)  7 how much longer meta is kept (ms)
--       8 a name nobody else has, for the life that this write may begin
--       9 the life that the publisher knows, or ''
--      10 owner, kept if this write creates the run    11 how many options follow
--      12 … name, value of each option, then type, data of each event
-- Without events it registers what other programs wrote, and gives the stream its expiry.
-- Options: key (names a request, so that it is written once), body (tells its events from others),
-- lost (who has let the lease lapse; 'held' where that is not so any more), transport ('pubsub': the
-- run is one if this is its first event), channel (where its events are published, if it is), run
-- (its id as JSON, for them), dual (publish those of a stream there too), heard ('open' or 'ended':
-- another program publishes the run there), tail (what is known of the run's end is added to the
-- reply of an 'ok': {bytes, cut, kept}, which with the rest is what stream_append wants to hear).
-- A first number of 0 is nobody's: such events are recognised by the key alone.
--
-- Returns {status, life, n, previous id, already written, id, id, …};
-- status is 'ok' ('live' in a run that is kept nowhere; 'stopping' or 'live stopping' where the run has
-- been asked to stop), 'ended', 'expired', 'fenced', 'reused' (the key, for another body) or 'pubsub'
-- (nothing was done: the run is on Pub/Sub, and no channel was given).
--
-- An entry has the fields type and data, as a producer in any language writes them, and h: its number
-- in this life, the id before it, the bytes of this life up to it, its producer and that one's number.
-- Meta: life (its generation, a dot, a name), n (events of this life), last (id), bytes, cut (bytes
-- known to be gone), end ('id producer number'), owner, gone (deleted), kept (when the expiry was
-- last set, ms), s:<producer> (the last number that producer wrote), keys (how many there have been),
-- k:<key> (the body, the ids of what it wrote, and the body's form), q:<number> (which key that was), lease ('holder
-- until', by this server's clock, 0 for ever), stop (when it was asked for, ms), transport ('pubsub',
-- or none).
-- There is no rollback in Lua: everything is checked before the first write.
local call = redis.call
local stream, meta = KEYS[1], KEYS[2]
local producer, first_seq = ARGV[2], tonumber(ARGV[3])
-- What few writes ask for is named, so that the others do not pay for it.
local option, FIRST = {}, 12 + 2 * ARGV[11]
for i = 12, FIRST - 1, 2 do option[ARGV[i]] = ARGV[i + 1] end
local count = (#ARGV - FIRST + 1) / 2
local MINE = 's:' .. producer
local function terminal(kind)
  return kind == 'workflow_complete' or kind == 'workflow_error' or kind == 'run_stopped' or kind == 'run_lost'
end

local m = call('HMGET', meta, 'life', 'n', 'last', 'bytes', 'cut', 'end', 'gone', 'kept', MINE, 'stop',
  'transport')
local life, n, last = m[1], tonumber(m[2] or 0), m[3] or '0-0'
local bytes, cut, ended, gone = tonumber(m[4] or 0), tonumber(m[5] or 0), m[6], m[7]
local refreshed, last_seq, stop = tonumber(m[8] or 0), tonumber(m[9] or 0), m[10]
local live = m[11] == 'pubsub'
local function done()
  if live then return stop and 'live stopping' or 'live' end
  return stop and 'stopping' or 'ok'
end

local function generation(name) return tonumber(string.match(name, '^%d+') or 0) end

-- A request that was answered is answered the same, whatever has become of the run since. The ids of
-- one write follow each other: 'id*count' is that id and those after it.
local function after(ms, seq, steps) return string.format('%s-%.0f', ms, seq + steps) end
-- What follows a dot in the body, its form, stands behind the ids: processes of a version that kept
-- none read past it there, and what they have kept is good for any form.
local body, form
if option.key then body, form = string.match(option.body, '^([^.]*)%.?(.*)$') end
local answered = option.key and call('HGET', meta, 'k:' .. option.key)
if answered then
  local kept, tokens = string.match(answered, '^(%S+) (.*)$')
  local kept_form = string.match(tokens, ' %.(%a+)$')
  if kept ~= body or (kept_form or form) ~= form then return {'reused', life or '', n, last, 0} end
  local reply = {live and 'live' or 'ok', life or '', n, last, count}
  for ms, seq, many in string.gmatch(tokens, '(%d+)-(%d+)%*(%d+)') do
    reply[#reply + 1] = ms .. '-' .. seq
    for step = 1, many - 1 do reply[#reply + 1] = after(ms, seq, step) end
  end
  return reply
end

-- Only a deletion shuts a publisher out: each adds one to the generation. Where Redis has lost its
-- data, whoever was publishing goes on, in a new life.
if gone or life ~= ARGV[9] then
  if ARGV[9] ~= '' and life then
    local mine, now = generation(ARGV[9]), generation(life)
    if mine < now or (mine == now and gone) then return {'fenced', life, n, last, 0} end
  end
end

-- A publisher that died is told as lost by whoever finds its lease lapsed. It may have come back.
if option.lost then
  local holder, till = string.match(call('HGET', meta, 'lease') or '', '^(%S+) (%d+)$')
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if holder ~= option.lost or tonumber(till) == 0 or tonumber(till) >= now then
    return {'held', life or '', n, last, 0}
  end
end

-- The fields of an entry; of a field given twice the last counts, as it does for readers.
local function fields(entry)
  local f = {}
  for k = 1, #entry[2], 2 do f[entry[2][k]] = entry[2][k + 1] end
  if f.h then f.bytes, f.producer, f.seq = string.match(f.h, '^%d+ %S+ (%d+) (%S+) (%d+)$') end
  return f
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
    local page = call('XREVRANGE', stream, from, '-', 'COUNT', 100)
    for _, entry in ipairs(page) do
      local f = fields(entry)
      local at = f.producer == producer and f.seq - first_seq + 1
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
  return {done(), life or '', n, last, written, unpack(ids_of_written())}
end

local length = call('XLEN', stream)
if n > 0 and length == 0 and not gone and not live then return {'expired', life, n, last, written} end

local begins = not life or gone
if begins then
  if count == 0 and length == 0 and not option.heard then return {'ok', '', 0, last, 0} end
  life = string.format('%d.%s', life and generation(life) + 1 or 0, ARGV[8])
  n, bytes, cut, ended, refreshed = 0, 0, 0, false, 0
  -- A stop may have been asked for before anything began, and waits an hour for that.
  stop = stop and call('TIME')[1] * 1000 - stop <= 3600000 and stop
end
-- A run may have been claimed before; its first event decides how all of them travel.
local decided = n == 0 and length == 0 and not live and option.transport == 'pubsub'
live = live or decided
if live and count > written and not option.channel then return {'pubsub', life, n, last, written} end
if option.heard == 'ended' and live and not ended then ended = last .. ' - 0' end

-- What another program added with a bare XADD counts too. XREAD asks for what follows an id without
-- looking at any entry where nothing does; before Redis 6 no script may, and XRANGE looks at one.
local function following()
  local found = redis.pcall('XREAD', 'COUNT', 100, 'STREAMS', stream, last)
  if not (found and found.err) then return found end
  local entries = call('XRANGE', stream, last, '+', 'COUNT', 101)
  if entries[1] and entries[1][1] == last then table.remove(entries, 1) end
  return {{stream, entries}}
end
local known = n
local more = length > 0 and not live and following()
while more do
  for _, entry in ipairs(more[1][2]) do
    local f = fields(entry)
    n, last, bytes = n + 1, entry[1], bytes + #(f.type or '') + #(f.data or '')
    if terminal(f.type) and not ended then ended = last .. ' - 0' end
  end
  more = #more[1][2] > 0 and following()
end
local registered = n > known

local status = 'ok'
if written < count then
  if ended then status = 'ended' end
  for i = written + 1, count - 1 do
    if terminal(ARGV[FIRST + 2 * (i - 1)]) then status = 'ended' end
  end
end

-- Ids only grow, also over a deletion, a lost stream and a clock that was set back.
local function first_id()
  if last == '0-0' then return '*' end
  local now, ms, seq = call('TIME'), string.match(last, '^(%d+)-(%d+)$')
  if now[1] * 1000 + math.floor(now[2] / 1000) > tonumber(ms) then return '*' end
  return string.format('%s-%.0f', ms, seq + 1)
end

local reply = {status, life, 0, n > 0 and last or '0-0', written}
if written > 0 then
  for _, id in ipairs(ids_of_written()) do reply[#reply + 1] = id end
end
if status ~= 'ok' and not registered then
  reply[2], reply[3] = begins and '' or life, n
  return reply
end

-- What Pub/Sub carries: one JSON object for each event, as its subscribers have always read it.
local messages, message, live_id = false, nil, nil
if option.channel and (live or option.dual) then
  messages = {}
  function live_id()
    local now, ms, seq = call('TIME'), string.match(last, '^(%d+)-(%d+)$')
    local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
    if now_ms > tonumber(ms) then return string.format('%.0f-0', now_ms) end
    return string.format('%s-%.0f', ms, seq + 1)
  end
  local function date(days)
    -- The proleptic Gregorian calendar in years that begin in March: a leap day is the last.
    local z = days + 719468
    local era, of_era = math.floor(z / 146097), z % 146097
    local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
      - math.floor(of_era / 146096)) / 365)
    local day = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
    local month = math.floor((5 * day + 2) / 153)
    day = day - math.floor((153 * month + 2) / 5) + 1
    month = month < 10 and month + 3 or month - 9
    return year + era * 400 + (month <= 2 and 1 or 0), month, day
  end
  function message(kind, data, id)
    local ms = tonumber(string.match(id, '^%d+'))
    local year, month, day = date(math.floor(ms / 86400000))
    local second = math.floor(ms / 1000) % 86400
    local at = string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
      math.floor(second / 3600), math.floor(second / 60) % 60, second % 60, ms % 1000)
    return '{"run_id":' .. option.run .. ',"type":' .. cjson.encode(kind) .. ',"data":' .. data
      .. ',"id":"' .. id .. '","created_at":"' .. at .. '"}'
  end
end

-- Numbers become text once: Redis would do it at each use, and that is what costs here.
local final, n_text, bytes_text, seq_text = false, nil, nil, ARGV[3]
-- A small event rides on the bell, and spares each listener a read; by its producer a process knows
-- its own.
local carried = ''
if status == 'ok' then
  for i = written + 1, count do
    local kind, data = ARGV[FIRST + 2 * (i - 1)], ARGV[FIRST + 2 * i - 1]
    local id, previous = n > 0 and '*' or first_id(), n > 0 and last or '0-0'
    n, bytes = n + 1, bytes + #kind + #data
    n_text, bytes_text = tostring(n), tostring(bytes)
    if i > 1 and first_seq > 0 then seq_text = tostring(first_seq + i - 1) end
    if live then
      last = live_id()
    else
      local h = n_text .. ' ' .. previous .. ' ' .. bytes_text .. ' ' .. producer .. ' ' .. seq_text
      last = call('XADD', stream, 'MAXLEN', '~', ARGV[4], id, 'type', kind, 'data', data, 'h', h)
      if count == 1 and first_seq > 0 and #data <= 4096 then
        carried = '\n' .. last .. ' ' .. h .. '\n' .. kind .. '\n' .. data
      end
    end
    if messages then messages[#messages + 1] = message(kind, data, last) end
    if terminal(kind) then ended, final = last .. ' ' .. producer .. ' ' .. seq_text, true end
    reply[#reply + 1] = last
  end
end
reply[3] = n

-- MAXLEN bounds no bytes. An old payload is read only while the budget seems exceeded, about once
-- for each entry that goes.
local budget, cut_before = tonumber(ARGV[5]), cut
while bytes - cut > budget and call('XLEN', stream) > 1 do
  local oldest = call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local f = fields(oldest)
  local size, up_to = #(f.type or '') + #(f.data or ''), tonumber(f.bytes)
  if up_to and up_to <= bytes then cut = math.max(cut, up_to - size) end
  if bytes - cut <= budget then break end
  call('XDEL', stream, oldest[1])
  cut = cut + size
end

n_text, bytes_text = n_text or tostring(n), bytes_text or tostring(bytes)
if status == 'ok' and count > 0 and first_seq > 0 then
  call('HSET', meta, 'n', n_text, 'last', last, 'bytes', bytes_text, MINE, seq_text)
else
  call('HSET', meta, 'n', n_text, 'last', last, 'bytes', bytes_text)
end
if cut ~= cut_before or begins then call('HSET', meta, 'cut', cut) end
if begins then
  call('HSET', meta, 'life', life)
  call('HDEL', meta, 'gone', 'end', 'owner')
  if not stop then call('HDEL', meta, 'stop') end
  if ARGV[10] ~= '' then call('HSET', meta, 'owner', ARGV[10]) end
end
if decided then call('HSET', meta, 'transport', 'pubsub') end
if ended then
  call('HSET', meta, 'end', ended)
  call('HDEL', meta, 'lease')
end

-- Keys are bounded as events are, or they would fill Redis beside a stream that is trimmed.
if option.key and status == 'ok' then
  local number, i, tokens = call('HINCRBY', meta, 'keys', 1), 6, body
  while i <= #reply do
    local ms, seq, many = string.match(reply[i], '^%d+'), string.match(reply[i], '%d+$'), 1
    while reply[i + many] == after(ms, seq, many) do many = many + 1 end
    tokens, i = tokens .. ' ' .. reply[i] .. '*' .. many, i + many
  end
  if form ~= '' then tokens = tokens .. ' .' .. form end
  call('HSET', meta, 'k:' .. option.key, tokens)
  call('HSET', meta, 'q:' .. number, option.key)
  local oldest = 'q:' .. number - ARGV[4]
  local forgotten = call('HGET', meta, oldest)
  if forgotten then call('HDEL', meta, oldest, 'k:' .. forgotten) end
end

-- The expiry slides with the events, in steps of a hundredth of it and of a second at most.
local retention, ms = tonumber(ARGV[6]), tonumber(string.match(last, '^%d+'))
local step = math.min(retention / 100, 1000)
if begins or final or registered or count == 0 or ms >= refreshed + step or ms < refreshed then
  call('PEXPIRE', stream, retention)
  call('PEXPIRE', meta, retention + ARGV[7])
  call('HSET', meta, 'kept', string.format('%.0f', ms))
end
-- The bell rings first: it says what the messages are that follow it on the same connection.
if live and n ~= known then
  local seq = first_seq > 0 and first_seq + written or 0
  call('PUBLISH', ARGV[1], table.concat({life, n_text, #messages, producer, seq}, ':'))
elseif n ~= known then
  call('PUBLISH', ARGV[1], life .. ':' .. n_text .. carried)
end
for i = 1, messages and #messages or 0 do call('PUBLISH', option.channel, messages[i]) end
if status == 'ok' then reply[1] = done() end
if option.tail and reply[1] == 'ok' and not ended then
  reply[#reply + 1] = {bytes_text, tostring(cut), call('HGET', meta, 'kept')}
end
return reply
