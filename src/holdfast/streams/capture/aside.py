"""The client that an application answers, while it is there: how far behind the log it is.

And what goes past the log to it: comments, reconnection times and what has a type and no data,
which no log keeps; and everything, where an answer can be recorded no further: what cannot be kept
is still that client's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Message

    from holdfast.streams.cursor import Cursor
    from holdfast.streams.store import Entry

ROOM = 65536
"""Bytes that wait for the client; of comments more are dropped."""


class Aside:
    """The way past the log, and the lead that the log has.

    Args:
        events, size: how many events, and bytes of them, the log may be ahead. Default: any.

    Attributes:
        last: the last event that was recorded, until the client is known to have it.
        events: as given.
        there: the client is.
        broken: nothing is recorded any more, and this is the only way.
        ended: nothing follows on it.
        rest: what is said last, after all else: text that no blank line has made an event.
        trailers: sent after the end, where the application has any.
    """

    def __init__(self, events: float = inf, size: float = inf) -> None:
        self.last: Entry | None = None
        self.events = events
        self._bytes = size
        self._ahead: deque[tuple[Entry, int, int]] = deque()
        self._lead = self._lead_bytes = 0
        self.there = True
        self.broken = self.ended = False
        self.rest = b""
        self.trailers: list[Message] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._wake: Callable[[], None] = lambda: None
        self._drained = asyncio.Event()

    def listen(self, wake: Callable[[], None]) -> None:
        """Have *wake* called when there is something to look at."""
        self._wake = wake

    def is_due(self, cursor: Cursor) -> bool:
        """Whether there is something to take for a reader at *cursor*, behind all events so far."""
        return bool(self._parts) and self._has_all(cursor)

    def is_over(self, cursor: Cursor) -> bool:
        """Whether a reader at *cursor* gets nothing more, of what is not recorded any more."""
        return self.broken and self.ended and not self._parts and self._has_all(cursor)

    def say(self, text: str) -> None:
        """Pass *text* on, if there is room."""
        if self._size < ROOM:
            self.put(text.encode())

    def put(self, chunk: bytes) -> None:
        """Pass *chunk* on."""
        if self.there and chunk:
            self._parts.append(chunk)
            self._size += len(chunk)
            self._wake()

    async def room(self) -> None:
        """Wait until the client has taken most of what there is."""
        while self.there and self._size >= ROOM:
            self._drained.clear()
            await self._drained.wait()

    def recorded(self, entries: Sequence[Entry]) -> None:
        """Note what the log has taken."""
        self.last = entries[-1]
        if self.there:
            size = sum(len(each.data) for each in entries)
            self._ahead.append((self.last._replace(data=b""), len(entries), size))
            self._lead += len(entries)
            self._lead_bytes += size

    def reached(self, cursor: Cursor) -> None:
        """Note that the client has all up to *cursor*."""
        while self._ahead and _has(cursor, self._ahead[0][0]):
            _, events, size = self._ahead.popleft()
            self._lead -= events
            self._lead_bytes -= size
            self._drained.set()
        if self._has_all(cursor):
            # For good: a cursor no longer tells it once what an outage held back is stored.
            self.last = None

    def caught_up(self) -> None:
        """Note that nothing more waits for the client, wherever in the log that is.

        What an outage held back is stored under another id than it was recorded with.
        """
        self._ahead.clear()
        self._lead = self._lead_bytes = 0
        self._drained.set()

    async def in_reach(self) -> None:
        """Wait while the log is too far ahead: what it has dropped, the client would miss."""
        while self.there and (self._lead > self.events or self._lead_bytes > self._bytes):
            self._drained.clear()
            await self._drained.wait()

    def take(self) -> bytes:
        """Return what waits."""
        found = b"".join(self._parts)
        self._parts, self._size = [], 0
        self._drained.set()
        return found

    def end(self) -> None:
        """Nothing follows."""
        self.ended = True
        self._wake()

    def leave(self) -> None:
        """The client is gone."""
        self.there = False
        self.caught_up()
        self.take()

    def _has_all(self, cursor: Cursor) -> bool:
        return self.last is None or _has(cursor, self.last)


def _has(cursor: Cursor, entry: Entry) -> bool:
    # What is kept nowhere moves no cursor.
    stored = not entry.provisional and (cursor.base >= entry.id or not entry.kept)
    return stored or cursor.has_seen(entry.producer, entry.seq)
