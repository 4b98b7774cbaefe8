-- What every session script begins with: the clock, the two fields that are not the user's, and who
-- may write. The names of those fields are no UTF-8, so no key of a session can be called like them.
--
-- META: '1 <secret> <created> <expires> <seen> <since>', hashes in hex, times in milliseconds.
-- OLD: '<kind>:<secret>:<until>', several joined by ';'. Kind 'g': in grace, reads and writes;
-- 'k': killed, and remembered so that its bearer is told to wait for the newer cookie.
local META, OLD = '\255meta', '\255old'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function read(key)
  local text = redis.call('HGET', key, META)
  if not text then return nil end
  local secret, created, expires, seen, since =
    string.match(text, '^1 (%x+) (%d+) (%d+) (%d+) (%d+)$')
  if not secret then return redis.error_reply('CORRUPT session metadata') end
  -- Times stay the text that they are, which most writes put back: Lua reckons with it as it is.
  return {secret = secret, created = created, expires = expires, seen = seen, since = since}
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

-- 'current', 'grace', 'killed', or nil for a stranger.
local function standing(key, meta, secret)
  if meta.secret == secret then return 'current' end
  local old = redis.call('HGET', key, OLD) or ''
  for kind, hash, till in string.gmatch(old, '(%a):(%x+):(%d+)') do
    if hash == secret and tonumber(till) > now then
      return kind == 'g' and 'grace' or 'killed'
    end
  end
  return nil
end

