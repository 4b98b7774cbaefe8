"""Slots of a Redis Cluster: which key is in which, and who has it. Pure: values in, values out.

redis.io, "Redis cluster specification".
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.link.translate import Arg

Address: TypeAlias = tuple[str, int]

SLOTS = 16384

# Of the commands without a key, those that somebody may send. PUBLISH reaches every node.
_KEYLESS = frozenset(
    {"ASKING", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DBSIZE", "ECHO", "INFO", "PING"}
    | {"PUBLISH", "SCRIPT", "TIME", "WAIT"}
)
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})


def slot_of(key: str | bytes) -> int:
    """Return the slot of *key*; of a key with ``{…}`` only what is between the braces counts."""
    raw = key.encode() if isinstance(key, str) else key
    start = raw.find(b"{")
    if start >= 0:
        end = raw.find(b"}", start + 1)
        if end > start + 1:
            raw = raw[start + 1 : end]
    return binascii.crc_hqx(raw, 0) % SLOTS


def key_of(command: Sequence[Arg]) -> str | bytes | None:
    """Return the first key of *command*; ``None`` where it has none."""
    name = _text(command[0]).upper()
    if name in _SCRIPTS:
        return _key(command[3]) if int(command[2]) else None
    if name == "XREAD":
        words = [_text(word).upper() for word in command]
        return _key(command[words.index("STREAMS") + 1])
    if name in _KEYLESS or len(command) < 2:
        return None
    return _key(command[1])


def table(reply: Any, asked: Address) -> list[Address | None]:
    """Read the answer to ``CLUSTER SLOTS``: the master of each slot, ``None`` where there is none.

    Args:
        reply: ranges, each ``[first, last, [host, port, id, [name, value, …]], replicas …]``.
        asked: who answered, for a host that is left out.

    Raises:
        RedisUnavailable: that is no such answer.
    """
    found: list[Address | None] = [None] * SLOTS
    try:
        for first, last, (host, port, *more), *_ in reply:
            address = (_host(host, more) or asked[0], int(port))
            for slot in range(first, last + 1):
                found[slot] = address
    except (TypeError, ValueError, IndexError):
        raise RedisUnavailable("unsupported", "it is not a node of a cluster") from None
    return found


def _host(host: Any, more: Sequence[Any]) -> str:
    name = _text(host) if host else ""
    if name != "?":
        return name
    # Redis 7 prefers a host name that nobody has told it, and has its address beside.
    beside = [_text(word) for word in more[1]] if len(more) > 1 else []
    return dict(zip(beside[::2], beside[1::2], strict=True)).get("ip", "")


def spread(key: str, homes: Sequence[Address], nodes: Sequence[Address]) -> list[str]:
    """Make names out of *key* such that each of *nodes* has one.

    Args:
        key: what they begin with.
        homes: the master of each slot.
        nodes: whom to find a name for; one with only a few slots may go without.
    """
    names: dict[Address, str] = {}
    for n in range(64 * len(nodes)):
        name = f"{key}:{n}"
        names.setdefault(homes[slot_of(name)], name)
        if len(names) == len(nodes):
            break
    return list(names.values())


def _key(word: Arg) -> str | bytes:
    return word if isinstance(word, str | bytes) else str(word)


def _text(word: Arg) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)
