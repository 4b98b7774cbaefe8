-- What session_save does first, before all that session_common prepares: the write to a session whose
-- activity the same process has noted a moment ago, and nobody has touched since. Only values are
-- set then. With the secret and the times in it, the metadata as it was stands for every check.
--
-- ARGV: 3 the metadata as session_save answered it, or '?' to be answered it, or '' for neither
--       5 … key, value of each; no more than Lua unpacks at once
if #ARGV[3] > 1 and redis.call('HGET', KEYS[1], '\255meta') == ARGV[3] then
  redis.call('HSET', KEYS[1], unpack(ARGV, 5))
  return 1
end

