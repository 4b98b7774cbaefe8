-- Settle a rotation: whoever asked for it is told of the new secret, and it is not taken back.
--
-- KEYS: session      ARGV: 1 the new secret
-- Returns 1, or 0 where another is there by now.
local meta = read(KEYS[1])
if not meta then return 0 end
if meta.err then return meta end
if meta.secret ~= ARGV[1] then return 0 end
settle(KEYS[1], 'current')
return 1
