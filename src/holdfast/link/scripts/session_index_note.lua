-- Note a session in the index of its user, and keep the index bounded.
--
-- KEYS: index of the user
-- ARGV: 1 id of the session   2 how long it may live (ms)   3 where it came from, as JSON
--       4 how many entries are kept
-- An entry is '<end> <noted> <JSON>', times in milliseconds by the clock of Redis.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life = tonumber(ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f %s', now + life, now, ARGV[3]))
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end

local excess = redis.call('HLEN', KEYS[1]) - tonumber(ARGV[4])
if excess > 0 then
  local all, entries = redis.call('HGETALL', KEYS[1]), {}
  for at = 1, #all, 2 do
    entries[#entries + 1] = {all[at], tonumber(string.match(all[at + 1], '^(%d+)')) or 0}
  end
  -- Those that end first go first: what is over already among them.
  table.sort(entries, function(one, other) return one[2] < other[2] end)
  for at = 1, excess do redis.call('HDEL', KEYS[1], entries[at][1]) end
end
return 1
