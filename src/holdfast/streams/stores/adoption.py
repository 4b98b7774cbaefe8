"""Taking over whole runs that were kept elsewhere, with the times at which their events happened.

An adopted run is written beside its place and moved there in one step: it is there whole or not at
all. A run that is there already is left as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdfast.errors import HoldfastError
from holdfast.streams.event import ZERO, EventId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from holdfast.link import Link
    from holdfast.streams.store import Draft
    from holdfast.streams.stores.replies import Keys

AT_ONCE = 500
UNFINISHED_MS = 3_600_000
"""How long what an interrupted adoption left behind stays in Redis."""


class Dated(NamedTuple):
    """An event of another system, and when it happened there, in milliseconds since 1970."""

    draft: Draft
    created_ms: int


def ids_of(events: Iterable[Dated]) -> list[EventId]:
    """Return an id for each event, in order: its time, or the next one where time stood still."""
    found, last = list[EventId](), ZERO
    for event in events:
        at = EventId(event.created_ms, 0)
        last = at if at > last else last.next()
        found.append(last)
    return found


async def move_in(link: Link, keys: Keys, events: Sequence[Dated]) -> bool:
    """Write *events* as the stream of an absent run; False where there is a stream already.

    Raises:
        RedisUnavailable: nothing has been moved.
    """
    draft_key = f"{{{keys.stream}}}:adopted"
    commands: list[tuple[str | bytes | int, ...]] = [("DEL", draft_key)]
    for at, (draft, _) in zip(ids_of(events), events, strict=True):
        commands.append(("XADD", draft_key, str(at), "type", draft.type, "data", draft.data))
        if len(commands) == 2:
            commands.append(("PEXPIRE", draft_key, UNFINISHED_MS))
    for some in _slices(commands):
        for reply in await link.pipeline(some):
            if isinstance(reply, HoldfastError):
                raise reply
    moved = await link.execute("RENAMENX", draft_key, keys.stream)
    if not moved:
        await link.execute("DEL", draft_key)
    return moved == 1


def _slices(
    commands: Sequence[tuple[str | bytes | int, ...]],
) -> Iterable[Sequence[tuple[str | bytes | int, ...]]]:
    for start in range(0, len(commands), AT_ONCE):
        yield commands[start : start + AT_ONCE]
