"""Publishing and delivering, as they are told to whoever measures them.

Called only where somebody does. Nothing of an event is told but how many there were.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast import signals
from holdfast.signals import Operation
from holdfast.streams.fanout.ring import Break

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from holdfast.streams.fanout.subscription import Due
    from holdfast.streams.store import Draft, Entry


async def publish(run_id: str, events: int, writing: Awaitable[list[Entry]]) -> list[Entry]:
    """Wait for the *writing* of so many *events*, and tell what came of it."""
    with _publishing(run_id, events) as operation:
        entries = await writing
        operation.outcome = came_to(entries)
    return entries


def publish_sync(draft: Draft, write: Callable[[Draft], list[Entry]], run_id: str) -> list[Entry]:
    """As :func:`publish`, for a thread."""
    with _publishing(run_id, 1) as operation:
        entries = write(draft)
        operation.outcome = came_to(entries)
    return entries


@contextmanager
def _publishing(run_id: str, events: int) -> Iterator[Operation]:
    operation = Operation("stream_publish", run_id=run_id)
    operation.events = events
    try:
        with operation:
            yield operation
    finally:
        signals.count("stream_events_published", operation.outcome, by=events)


def came_to(entries: Sequence[Entry]) -> str:
    """Return what publishing came to, in one word."""
    if any(entry.provisional for entry in entries):
        return "provisional"
    return "stored" if all(entry.kept for entry in entries) else "live"


def delivering(run_id: str) -> Operation:
    """Return the operation that one reader of a run is, from its joining to its leaving."""
    # Not the current one: what is traced meanwhile in its task is no part of it.
    return Operation("stream_deliver", run_id=run_id, current=False)


def took(operation: Operation | None, due: Sequence[Due]) -> None:
    """Tell what was handed over to a reader, one by one."""
    breaks = [each.item.kind for each in due if isinstance(each.item, Break)]
    for kind in breaks:
        signals.count("stream_breaks", kind)
    delivered(operation, len(due) - len(breaks))


def delivered(operation: Operation | None, events: int) -> None:
    """Tell that so many *events* were handed over to a reader."""
    signals.count("stream_events_delivered", by=events)
    if operation is not None:
        operation.events += events
