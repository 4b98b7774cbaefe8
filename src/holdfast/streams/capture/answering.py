"""Serving one reader of a captured answer from its log, as the application would have served it.

The application's own client and those who come back are served alike; only the first gets what no
log keeps.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

from holdfast.errors import HoldfastError
from holdfast.streams import frames
from holdfast.streams.capture.aside import Aside
from holdfast.streams.capture.text import spell, spell_comment, spell_id, to_event
from holdfast.streams.doors.opening import Opening, decide, look
from holdfast.streams.fanout.pulse import Pulse
from holdfast.streams.frames import Frame

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import Message, Send

    from holdfast.streams.capture.ids import Seal
    from holdfast.streams.fanout.hub import Hub
    from holdfast.streams.fanout.subscription import Due, Subscription
    from holdfast.streams.store import Entry

log = logging.getLogger("holdfast.streams")


class Answer:
    """The sender of one open answer; it has begun already, and is ended by who opened it.

    Args:
        hub: of the running event loop.
        subscription: of the run, joined.
        seal: signs the ids of this reader.
        own: the application's own id of the event that the reader had last.
        heartbeat: seconds of silence after which a comment is sent.
        send: the server's.
        aside: what comes past the log, for the application's own client.

    Attributes:
        ended_by: the type of the event that ended the run, once that has come by.
    """

    def __init__(
        self,
        hub: Hub,
        subscription: Subscription,
        seal: Seal,
        own: str,
        heartbeat: float,
        send: Send,
        aside: Aside | None = None,
    ) -> None:
        self.ended_by: str | None = None
        self._hub = hub
        self._subscription = subscription
        self._seal = seal
        self._own = own
        self._placed = False
        self._send = send
        self._aside = aside or Aside()
        self._aside.listen(subscription.wake)
        self._pulse = Pulse(hub.rounds, subscription, heartbeat)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pulse.cancel()

    async def relay(self) -> None:
        """Send what there is until the run ends, the client leaves, or the process stops."""
        subscription = self._subscription
        try:
            while not (self._is_over() or subscription.over):
                body = b"" if subscription.done else await self._due()
                if self._aside.is_due(subscription.cursor):
                    body += self._aside.take()
                if body:
                    await self._write(body)
                self._aside.reached(subscription.cursor)
                if not body and self._has_to_wait():
                    self._aside.caught_up()
                    await self._news()
        except HoldfastError as error:
            # The answer has begun: what cannot be read is for the log, and for the next request.
            run_id = subscription.run_id
            log.warning("the captured answer %r breaks off: %s", run_id, error)

    async def held(self) -> bool:
        """Wait until it can be said whether there is something to serve; return whether there is.

        A refusal would stop the browser for good: it is told when the client comes back.
        """
        subscription = self._subscription
        while not subscription.over:
            news = subscription.news()
            subscription.doubt()
            info = await look(self._hub.store, subscription.run_id)
            if (opening := decide(info, subscription.cursor)) is not Opening.UNDECIDED:
                return opening is Opening.SERVE
            await news
            await self._beat("waiting")
        return False

    async def until_available(self) -> None:
        """Wait until the store can be asked again, or nobody waits for it."""
        subscription = self._subscription
        while not (subscription.over or self._hub.store.available):
            news = subscription.news()
            subscription.doubt()
            await news
            await self._beat("waiting")

    def _is_over(self) -> bool:
        if self._aside.broken:
            return self._aside.is_over(self._subscription.cursor)
        return self._subscription.done and not self._aside.is_due(self._subscription.cursor)

    def _has_to_wait(self) -> bool:
        subscription = self._subscription
        return not self._is_over() and (subscription.done or not subscription.ready)

    async def _due(self) -> bytes:
        return b"".join(map(self._encode, await self._subscription.take()))

    async def _news(self) -> None:
        await self._subscription.news()
        await self._beat("" if self._hub.store.available else "waiting")

    async def _beat(self, text: str) -> None:
        # Between two pieces that are not recorded there may be an event that is not complete.
        if self._pulse.due and not (self._subscription.over or self._aside.broken):
            await self._write(spell_comment(text))

    def _encode(self, due: Due) -> bytes:
        item = due.item
        if isinstance(item, Frame):
            return self._spell(item.entry, due.cursor)
        fields = {"requested": item.requested, "earliest": item.earliest}
        return frames.control_event_source(item.kind, self._subscription.run_id, **fields)

    def _spell(self, entry: Entry, cursor: str) -> bytes:
        run_id = self._subscription.run_id
        if entry.terminal:
            # No event of the application's: the reader only learns that nothing follows. The id of
            # the event before tells that too, and to some programs such a block is an event.
            self.ended_by = entry.type
            if self._placed or self._aside.broken or not entry.kept:
                return b""
            return spell_id(self._seal.sign(run_id, cursor, self._own))
        event = to_event(entry)
        if event.id is not None:
            self._own = event.id
        if not entry.kept:
            # It can be asked for by nobody: what it may have is the application's own id.
            return spell(event, event.id)
        self._placed = True
        return spell(event, self._seal.sign(run_id, cursor, self._own))

    def _write(self, body: bytes) -> Awaitable[None]:
        message: Message = {"type": "http.response.body", "body": body, "more_body": True}
        return self._pulse.watch(self._send(message))
