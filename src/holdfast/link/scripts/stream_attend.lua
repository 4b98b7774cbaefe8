-- Renew the lease of a run, and tell whether the run has been asked to stop.
--
-- KEYS: stream, meta
-- ARGV: 1 the holder ('': only look)    2 lease (ms; 0: it never lapses)
--       3 the life that the publisher knows, or ''
--       4 how long the events of a run are kept at the least from now, while it is held (ms)
--       5 how long meta is kept (ms)
-- Returns {status, life, 1 where it has been asked to stop}; status is 'on', 'over' or 'absent'.
--
-- A lease that is free is taken, also one that has lapsed and was not judged: its holder may be
-- gone, and this one is not.
local call = redis.call
local meta = KEYS[2]
local m = call('HMGET', meta, 'life', 'gone', 'end', 'lease', 'stop')
local life, lease, stop = m[1], m[4], m[5] and 1 or 0
local function generation(name) return tonumber(string.match(name, '^%d+') or 0) end

if not life or m[2] then
  if ARGV[3] == '' then return {'absent', '', stop} end
  -- Deleted, or lost with the data of Redis. What was asked of the next life is not for this one.
  return {life and generation(ARGV[3]) <= generation(life) and 'over' or 'absent', '', 0}
end
if ARGV[3] ~= '' and generation(ARGV[3]) < generation(life) then return {'over', '', 0} end
if m[3] then return {'over', life, stop} end

if ARGV[1] ~= '' then
  local holder, till = string.match(lease or '', '^(%S+) (%d+)$')
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local lapsed = till and tonumber(till) > 0 and tonumber(till) < now
  if not holder or holder == ARGV[1] or lapsed then
    local until_ms = tonumber(ARGV[2]) > 0 and now + ARGV[2] or 0
    call('HSET', meta, 'lease', string.format('%s %.0f', ARGV[1], until_ms))
    -- Nothing that has a living publisher is over: it may be silent for longer than events are kept.
    local events, known = call('PTTL', KEYS[1]), call('PTTL', meta)
    if events >= 0 and events < tonumber(ARGV[4]) then call('PEXPIRE', KEYS[1], ARGV[4]) end
    if known >= 0 and known < ARGV[5] - ARGV[4] then call('PEXPIRE', meta, ARGV[5]) end
  end
end
return {'on', life, stop}
