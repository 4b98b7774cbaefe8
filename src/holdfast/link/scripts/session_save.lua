-- Apply what one request did to a session that still exists and whose secret the request knows.
--
-- KEYS: session, tombstone
-- ARGV: 1 secret   2 idle timeout (ms), 0 for none   3 see session_again.lua   4 number of keys to
--       set; then key, value of each to set, which is all that most writes ask; else there follow
--       1 new secret, or ''   2 grace of the old one (ms), 0 to kill every older one; -1 where that is
--       a logout, so that nothing of before is put back, -2 where nothing is kept for that
--       3 new lifetime from now (ms), or -1 to keep the end   4 how long a killed one is known (ms)
--       5 how long a tombstone stays (ms)   6 number of keys to renew   7 number of keys to compare
--       then key, '=' .. value or '-' for none of each to compare; key, old, new of each to renew;
--       the keys to remove
-- Returns 1 done, 2 destroyed (keys were removed and none is left), 3 done, but not rotated,
-- 4 refused, because something else is stored than was expected, 5 refused, because this secret was
-- replaced by one that may be taken back, -1 no such session for this secret; the metadata for 1 where
-- that is asked for.
local SPELLED = {['%'] = '%0', [':'] = '%1', ['|'] = '%2'}
local meta = read(KEYS[1])
if not meta then return -1 end
if meta.err then return meta end
local set, more = 5, 5 + 2 * tonumber(ARGV[4])
local fresh = ARGV[more] or ''
local who, replaced = standing(KEYS[1], meta, ARGV[1]), nil
local again = fresh ~= '' and fresh == meta.secret
if again then
  who, fresh = 'current', ''  -- rotated before; the answer was lost
end
if barred(who) then return barred(who) end

if ARGV[more] then
  local first, last = more + 7, more + 6 + 2 * tonumber(ARGV[more + 6])
  for at = first, last, 2 do
    local stored = redis.call('HGET', KEYS[1], ARGV[at])
    if ARGV[at + 1] ~= (stored and '=' .. stored or '-') then return 4 end
  end
  first, last = last + 1, last + 3 * tonumber(ARGV[more + 5])
  if fresh ~= '' then
    -- Who comes in the grace does not say that the present secret was told: that may be taken back
    -- as well, after this one.
    local all = who == 'grace' and redis.call('HGET', KEYS[1], OLD)
    replaced = {meta.text, all or (olds_of(KEYS[1]))}
    if tonumber(ARGV[more + 1]) == 0 then
      -- What is written with a new secret alone is not for who has the old one, as a login is not
      -- (CWE-384). In its grace the old one opens it as well, and others may build on it.
      local function keep(name)
        local value = redis.call('HGET', KEYS[1], name)
        replaced[#replaced + 1] = name
        replaced[#replaced + 1] = value and '=' .. value or '-'
      end
      for at = set, more - 1, 2 do keep(ARGV[at]) end
      for at = last + 1, #ARGV do keep(ARGV[at]) end
    end
  end
  for at = first, last, 3 do
    -- Only another form of the same value: who wrote it since is not undone.
    if redis.call('HGET', KEYS[1], ARGV[at]) == ARGV[at + 1] then
      redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
    end
  end
  for at = last + 1, #ARGV, 1000 do
    redis.call('HDEL', KEYS[1], unpack(ARGV, at, math.min(at + 999, #ARGV)))
  end
  if #ARGV > last and more == set
      and redis.call('HLEN', KEYS[1]) == 1 + redis.call('HEXISTS', KEYS[1], OLD) then
    destroy(KEYS[1], KEYS[2], ARGV[more + 4])
    return 2
  end
end

-- In slices, because Lua unpacks some thousand values at most; the last goes with the metadata.
while more - set > 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, set, set + 999))
  set = set + 1000
end

local result = 1
if not again or ARGV[more + 1] == '-2' then settle(KEYS[1], who) end
meta.seen = now
if fresh ~= '' then
  local grace = tonumber(ARGV[more + 1])
  local killed = string.format('%.0f', now + tonumber(ARGV[more + 3]))
  if grace > 0 and who == 'grace' then
    result = 3  -- a request in parallel has rotated by age; its browser gets that one's cookie
  else
    local olds = {}
    for kind, hash, till in string.gmatch(replaced[2], '(%a):(%x+):(%d+)') do
      if tonumber(till) > now then
        -- Who regenerates wants every older secret dead, those in their grace as well.
        if grace <= 0 then kind, till = 'k', killed end
        olds[#olds + 1] = kind .. ':' .. hash .. ':' .. till
      end
    end
    if grace > 0 then
      olds[#olds + 1] = 'g:' .. meta.secret .. ':' .. string.format('%.0f', now + grace)
    else
      olds[#olds + 1] = 'k:' .. meta.secret .. ':' .. killed
    end
    local kept = table.concat(olds, ';', math.max(1, #olds - 3))
    if grace > -2 then
      for at = 1, #replaced do replaced[at] = string.gsub(replaced[at], '[%%:|]', SPELLED) end
      kept = kept .. (grace < 0 and ';|!' or ';|') .. table.concat(replaced, '|')
    end
    redis.call('HSET', KEYS[1], OLD, kept)
    if grace <= 0 then ended(KEYS[1], fresh) end
    meta.secret, meta.since = fresh, now
    if tonumber(ARGV[more + 2]) >= 0 then meta.expires = now + tonumber(ARGV[more + 2]) end
  end
end
local text = write(KEYS[1], meta, tonumber(ARGV[2]), unpack(ARGV, set, more - 1))
return ARGV[3] ~= '' and text or result
