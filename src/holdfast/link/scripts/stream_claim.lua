-- Begin a run for the one who will publish it, or tell what there is of it already.
--
-- KEYS: stream, meta
-- ARGV: 1 a name for the holder, that nobody else has    2 lease (ms; 0: it never lapses)
--       3 'start': take the run only if this begins it; 'enter': take the lease of an open run too
--       4 a name nobody else has, for the life that this may begin    5 owner, kept if it does
--       6 how long meta is kept (ms)    7 how long a stop waits for its run (ms)
--       8 doorbell channel: who waits for the run to begin is told
-- Returns {status, life, 1 where it has been asked to stop, owner};
-- status is 'mine', 'open', 'ended' or 'expired'.
--
-- Meta: lease ('holder until', by this server's clock), stop (when it was asked for, ms).
local call = redis.call
local stream, meta = KEYS[1], KEYS[2]
local m = call('HMGET', meta, 'life', 'gone', 'n', 'end', 'owner', 'lease', 'stop', 'transport')
local life, gone, owner, stop = m[1], m[2], m[5], m[7]
local length, time = call('XLEN', stream), call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local status = 'open'

if length == 0 and (not life or gone) then
  local generation = life and tonumber(string.match(life, '^%d+') or 0) + 1 or 0
  life, owner, status = string.format('%d.%s', generation, ARGV[4]), ARGV[5], 'mine'
  call('HDEL', meta, 'gone', 'end', 'owner', 'lease')
  call('HSET', meta, 'life', life)
  if owner ~= '' then call('HSET', meta, 'owner', owner) end
  if stop and now - stop > tonumber(ARGV[7]) then
    call('HDEL', meta, 'stop')
    stop = false
  end
  call('PEXPIRE', meta, ARGV[6])
  call('PUBLISH', ARGV[8], life .. ':0')
elseif not gone and tonumber(m[3] or 0) > 0 and length == 0 and not m[8] then
  status = 'expired'
elseif not gone and m[4] then
  status = 'ended'
elseif ARGV[3] == 'enter' or m[6] and string.match(m[6], '^%S+') == ARGV[1] then
  status = 'mine'  -- also where the reply to the same claim was lost
end

if status == 'mine' then
  local till = tonumber(ARGV[2]) > 0 and now + ARGV[2] or 0
  call('HSET', meta, 'lease', string.format('%s %.0f', ARGV[1], till))
  if call('PTTL', meta) == -1 then call('PEXPIRE', meta, ARGV[6]) end
end
return {status, life or '', stop and 1 or 0, owner or ''}
