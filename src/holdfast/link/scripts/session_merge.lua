-- Apply what an outage left of one session, key by key, where nobody else has changed the key.
--
-- KEYS: session, tombstone
-- ARGV: 1 secret   2 idle timeout (ms), 0 for none   3 how long a tombstone stays (ms)
--       4 number of keys; of each: its name, what it becomes, how many may be found, and those;
--       each '=' .. value, or '-' for none
-- Returns {1, the keys that others had changed and that are left as they are}, {2} destroyed (keys
-- were removed and none is left), {5} this secret was replaced by one that may be taken back, {-1} no
-- such session for it.
local meta = read(KEYS[1])
if not meta then return {-1} end
if meta.err then return meta end
local who = standing(KEYS[1], meta, ARGV[1])
if barred(who) then return {barred(who)} end

local result, removed, at = {1}, false, 5
for _ = 1, tonumber(ARGV[4]) do
  local name, ours, last = ARGV[at], ARGV[at + 1], at + 2 + tonumber(ARGV[at + 2])
  local stored = redis.call('HGET', KEYS[1], name)
  local theirs = stored and '=' .. stored or '-'
  local free = theirs == ours
  for base = at + 3, last do free = free or theirs == ARGV[base] end
  if not free then
    result[#result + 1] = name
  elseif ours == '-' then
    redis.call('HDEL', KEYS[1], name)
    removed = true
  else
    redis.call('HSET', KEYS[1], name, string.sub(ours, 2))
  end
  at = last + 1
end
if removed and redis.call('HLEN', KEYS[1]) == 1 + redis.call('HEXISTS', KEYS[1], OLD) then
  destroy(KEYS[1], KEYS[2], ARGV[3])
  return {2}
end
settle(KEYS[1], who)
meta.seen = now
write(KEYS[1], meta, tonumber(ARGV[2]))
return result
