"""Recording one answer: from what an application sends to the events of a run.

The application goes as fast as the log takes its events, and no faster; of its client, while that
is there, it is ahead by no more than the log keeps. It is a detached run like any other: stopped by
the sub-app, lost with the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from holdfast.errors import EventTooLarge, HoldfastError, RunEnded
from holdfast.streams.capture.text import spell, to_draft
from holdfast.streams.event_text import Event, EventText
from holdfast.streams.publishing.runs import Detached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.types import Message

    from holdfast.streams.capture.aside import Aside
    from holdfast.streams.capture.presence import Presence
    from holdfast.streams.capture.register import Headers
    from holdfast.streams.event_text import Passing
    from holdfast.streams.publishing.publisher import RunPublisher
    from holdfast.streams.store import EventStore

log = logging.getLogger("holdfast.streams")

INBOX = 65536
"""Characters that an application may be ahead of the log; a larger event goes alone."""
AT_ONCE = 500
"""Events that are written at once, at most; and of more than :data:`INBOX` characters, one."""
PARTING = 5.0
"""Seconds that an application has to end when its run does."""


class Recording:
    """One answer that is being recorded.

    Args:
        store: where the run is kept.
        presence: the run, and its first reader.
        owner: whose the run is.
        app: the task that the application runs in.
        headers: what may be said again of the headers of the answer.
        aside: what passes to the client without being recorded.
        upkeep: goes on while it is recorded.

    Attributes:
        aside: as given.
        complete: the application has sent all of its answer.
    """

    def __init__(
        self,
        store: EventStore,
        presence: Presence,
        owner: str | None,
        app: asyncio.Task[None],
        headers: Headers,
        aside: Aside,
        upkeep: Callable[[Recording], Awaitable[None]],
    ) -> None:
        self.aside = aside
        self.headers = headers
        self.run_id = presence.run_id
        self._store = store
        self._run = Detached(self.run_id, owner=owner, store=store)
        self._presence = presence
        self._app = app
        self._upkeep = upkeep
        self._text = EventText()
        self._inbox: deque[Passing] = deque()
        self._size = 0
        self.complete = self._begun = self._over = False
        self._arrived, self._taken = asyncio.Event(), asyncio.Event()
        app.add_done_callback(self._app_ended)

    def begin(self) -> None:
        """Publish from now on; again is nothing."""
        if not self._begun:
            self._begun = True
            self._run.run(self._publish, None)

    def abandon(self) -> None:
        """End it where it stands, as lost."""
        self._run.cancel()

    def leave(self) -> None:
        """The client is gone. What is recorded goes on."""
        self.aside.leave()
        if self.aside.broken and not self.complete:
            self._app.cancel()

    # -- what the application sends

    async def take(self, message: Message) -> None:
        """Take what the application sends; it waits while the log is behind."""
        if message["type"] == "http.response.trailers":
            self.aside.trailers.append(message)
        elif message["type"] == "http.response.body" and not self.complete:
            chunk = message.get("body", b"")
            if self.aside.broken:
                self.aside.put(chunk)
                await self.aside.room()
            elif not self._over:
                self._receive(self._text.feed(chunk))
            if not message.get("more_body", False):
                self.complete = True
                self._last_word()
            while self._size >= INBOX and not self._over:
                self._taken.clear()
                await self._taken.wait()

    def _receive(self, items: Iterable[Passing]) -> None:
        for item in items:
            self._inbox.append(item)
            self._size += _length(item)
        if self._text.pending > self._store.max_event_bytes:
            self._size = max(self._size, INBOX)
        self._arrived.set()

    def _last_word(self) -> None:
        if self.aside.broken:
            self.aside.end()
        self._arrived.set()

    def _app_ended(self, task: asyncio.Task[None]) -> None:
        self._last_word()
        error = None if task.cancelled() else task.exception()
        if error is not None and self.complete and not self.aside.there:
            # After its answer, and there is no request any more that it could fail.
            log.error("the application failed after %r", self.run_id, exc_info=error)

    # -- what becomes of it

    async def _publish(self, run: RunPublisher) -> None:
        """Record all of it, as the source of its run."""
        upkeep = asyncio.ensure_future(self._upkeep(self))
        try:
            await self._presence.began(self.headers)
            while await self._some():
                await self._record()
                await self.aside.in_reach()
        except RunEnded:
            raise
        except HoldfastError as error:
            self._break_off(error)
            raise
        else:
            self._raise_how_it_ended()
        finally:
            upkeep.cancel()
            self._over = True
            self._taken.set()
            if not (self.aside.broken and self.aside.there):
                await self._end_app()
                self.aside.end()

    async def _some(self) -> bool:
        """Wait until there is something to record; False at the end."""
        while not self._inbox:
            if self._text.pending > self._store.max_event_bytes:
                raise EventTooLarge("HOLDFAST_STREAM_MAX_EVENT_BYTES allows no such event")
            if self.complete or self._app.done():
                self.aside.rest = self._text.rest()
                return False
            self._arrived.clear()
            await self._arrived.wait()
        return True

    async def _record(self) -> None:
        batch, limit = self._next(), self._store.max_event_bytes
        try:
            drafts = [to_draft(item, limit) for item in batch if isinstance(item, Event)]
            if drafts:
                self.aside.recorded(await self._run.write(drafts))
        except HoldfastError:
            self._inbox.extendleft(reversed(batch))
            raise
        for item in batch:
            if isinstance(item, str):
                self.aside.say(item)

    def _next(self) -> list[Passing]:
        """Take from the inbox what is written at once."""
        batch: list[Passing] = []
        left, most = INBOX, min(AT_ONCE, self.aside.events)
        while self._inbox and len(batch) < most and (not batch or left >= _length(self._inbox[0])):
            batch.append(self._inbox.popleft())
            left -= _length(batch[-1])
        self._size -= INBOX - left
        self._taken.set()
        return batch

    def _raise_how_it_ended(self) -> None:
        if not self.complete:
            if self._app.cancelled():
                raise RuntimeError("the application was cancelled")
            if error := self._app.exception():
                # Its text was for no client, and the end of a run is read by some.
                raise RuntimeError(f"the application raised {type(error).__name__}") from error
            raise RuntimeError("the application has not completed its answer")

    def _break_off(self, error: HoldfastError) -> None:
        """Record nothing more; whoever is there still gets all of it."""
        log.warning("the answer recorded as %r can be recorded no further: %s", self.run_id, error)
        for item in self._inbox:
            self.aside.put(item.encode() if isinstance(item, str) else spell(item, item.id))
        self._inbox.clear()
        self._size = 0
        self.aside.put(self._text.rest())
        self.aside.broken = True
        if self.complete or self._app.done():
            self.aside.end()

    async def _end_app(self) -> None:
        if self.complete or self._app.done():
            return
        self._app.cancel()
        await asyncio.wait({self._app}, timeout=PARTING)


def _length(item: Passing) -> int:
    return len(item) if isinstance(item, str) else len(item.text)
