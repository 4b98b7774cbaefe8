"""Sessions in a real Redis as old as a test needs them: its clock cannot be moved, times can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.settings import Settings

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

#: Seconds for one command. A busy machine is no outage, and looks like one.
PATIENCE = 10.0


def patient(redis: RedisServer, prefix: str) -> Settings:
    """Return the settings of a store in *redis* under *prefix*."""
    return Settings(redis_url=redis.url, key_prefix=prefix, redis_timeout=PATIENCE)


# Every time that is kept moves back by as much as the clock would have moved on.
_AGE = r"""
local by = tonumber(ARGV[1])
for _, key in ipairs(KEYS) do
  local meta = redis.call('HGET', key, '\255meta')
  local old = redis.call('HGET', key, '\255old')
  if meta then
    local secret, created, expires, seen, since =
      string.match(meta, '^1 (%x+) (%d+) (%d+) (%d+) (%d+)$')
    redis.call('HSET', key, '\255meta', string.format('1 %s %.0f %.0f %.0f %.0f',
      secret, created - by, expires - by, seen - by, since - by))
  end
  if old then
    redis.call('HSET', key, '\255old', (string.gsub(old, ':(%d+)%f[;%z]', function (till)
      return ':' .. string.format('%.0f', till - by)
    end)))
  end
  redis.call('PEXPIRE', key, redis.call('PTTL', key) - by)
end
"""


def age(redis: RedisServer, prefix: str, seconds: float) -> None:
    """Have all sessions under *prefix* be *seconds* older."""
    keys = redis.execute("KEYS", f"{prefix}session:*")
    assert isinstance(keys, list)
    names = [key for key in keys if isinstance(key, bytes)]
    redis.execute("EVAL", _AGE, len(names), *names, int(seconds * 1000))
