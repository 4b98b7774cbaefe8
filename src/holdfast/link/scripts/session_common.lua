-- What every session script begins with: the clock, the two fields that are not the user's, and who
-- may write. The names of those fields are no UTF-8, so no key of a session can be called like them.
--
-- META: '1 <secret> <created> <expires> <seen> <since>', hashes in hex, times in milliseconds.
-- OLD: '<kind>:<secret>:<until>', several joined by ';'. Kind 'g': in grace, reads and writes;
-- 'k': killed, and remembered so that its bearer is told to wait for the newer cookie.
-- Until the rotation is settled (session_settle, or whoever writes or is touched with its secret),
-- what it replaced follows after ';|', which session_take_back puts back: META, OLD, and of each key
-- its name and '=' .. value or '-', joined by '|'. OLD has such an end of its own where who rotated
-- came in the grace. There is no ':' in it, so that whoever knows nothing of it finds no secret there.
-- After ';|!' there are only META and OLD: of a logout, which is not taken back but carried to its end.
local META, OLD = '\255meta', '\255old'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function parsed(text)
  local secret, created, expires, seen, since =
    string.match(text, '^1 (%x+) (%d+) (%d+) (%d+) (%d+)$')
  if not secret then return redis.error_reply('CORRUPT session metadata') end
  -- Times stay the text that they are, which most writes put back: Lua reckons with it as it is.
  return {text = text, secret = secret, created = created, expires = expires, seen = seen,
    since = since}
end

local function read(key)
  local text = redis.call('HGET', key, META)
  return text and parsed(text)
end

-- The older secrets, and what the last rotation replaced or nil.
local function olds_of(key)
  local text = redis.call('HGET', key, OLD) or ''
  local at = string.find(text, ';|', 1, true)
  if not at then return text, nil end
  return string.sub(text, 1, at - 1), string.sub(text, at + 2)
end

-- The secret of the last rotation has been told, or its bearer comes: nothing is taken back any more.
-- That the session was seen since says nothing: it may have been with a secret in its grace.
local function settle(key, who)
  if who ~= 'current' then return end
  local olds, replaced = olds_of(key)
  if replaced then redis.call('HSET', key, OLD, olds) end
end

local function whole(time)
  return type(time) == 'string' and time or string.format('%.0f', time)
end

-- '...': keys and values of the user's that are set in the same step. Returns what META becomes.
local function write(key, meta, idle, ...)
  local text = '1 ' .. meta.secret .. ' ' .. whole(meta.created) .. ' ' .. whole(meta.expires) ..
    ' ' .. whole(meta.seen) .. ' ' .. whole(meta.since)
  redis.call('HSET', key, META, text, ...)
  local ends = meta.expires
  if idle > 0 then ends = math.min(ends, meta.seen + idle) end
  redis.call('PEXPIREAT', key, whole(ends))
  return text
end

-- Tell every process that a session has ended, or that its secrets but one have. The channel is the
-- key's prefix and 'ended'. A user of Redis who may not publish must still be able to log out.
local function ended(key, spared)
  redis.pcall('PUBLISH', string.sub(key, 1, -65) .. 'ended', string.sub(key, -64) .. ' ' .. spared)
end

-- End a session: nothing late brings it back. Returns how many there were, 1 or 0.
local function destroy(key, tombstone, lasts)
  redis.call('SET', tombstone, 1, 'PX', lasts)
  local gone = redis.call('DEL', key)
  if gone == 1 then ended(key, '') end
  return gone
end

-- Whether a secret would be good again if what was replaced were put back.
local function returns(replaced, secret)
  local present, olds = string.match(replaced, '^!?1 (%x+)[^|]*|?([^|]*)')
  return present == secret or string.find(olds or '', 'g%1' .. secret, 1, true) ~= nil
end

-- 'current', 'grace', 'killed', 'open' for a killed one that may be good again, nil for a stranger.
local function standing(key, meta, secret)
  if meta.secret == secret then return 'current' end
  local olds, replaced = olds_of(key)
  for kind, hash, till in string.gmatch(olds, '(%a):(%x+):(%d+)') do
    if hash == secret and tonumber(till) > now then
      if kind == 'g' then return 'grace' end
      return replaced and returns(replaced, secret) and 'open' or 'killed'
    end
  end
  return nil
end

-- What is answered to one who may not write, nil to one who may: 5 that nobody can say yet, -1 no.
local function barred(who)
  if who == 'current' or who == 'grace' then return nil end
  return who == 'open' and 5 or -1
end

