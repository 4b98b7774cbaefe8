-- Count a request as activity, unless another was counted a moment ago. Never creates a key.
--
-- KEYS: session      ARGV: 1 secret   2 idle timeout (ms)   3 interval (ms)
-- Returns 1, 5 where this secret was replaced by one that may be taken back, or -1 where there is no
-- such session for it.
local meta = read(KEYS[1])
if not meta then return -1 end
if meta.err then return meta end
local who = standing(KEYS[1], meta, ARGV[1])
if barred(who) then return barred(who) end
if now - meta.seen >= tonumber(ARGV[3]) then
  settle(KEYS[1], who)
  meta.seen = now
  write(KEYS[1], meta, tonumber(ARGV[2]))
end
return 1
