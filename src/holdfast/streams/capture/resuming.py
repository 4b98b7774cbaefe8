"""Answering who comes back from the log of the answer, in place of the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError, RedisUnavailable
from holdfast.streams.capture.answering import Answer
from holdfast.streams.capture.ids import RUN, Seal, new_name
from holdfast.streams.capture.match import later_headers, run_headers
from holdfast.streams.cursor import Cursor
from holdfast.streams.doors import sse
from holdfast.streams.doors.opening import Opening, decide
from holdfast.streams.fanout.pulse import listening
from holdfast.streams.fanout.subscription import Subscription

if TYPE_CHECKING:
    from starlette.types import Scope, Send

    from holdfast.streams.capture.ids import Place
    from holdfast.streams.capture.intake import Intake
    from holdfast.streams.capture.presence import Presence
    from holdfast.streams.capture.register import Headers
    from holdfast.streams.capture.setup import Setup
    from holdfast.streams.store import Entry, EventStore, RunInfo

#: What ends a run whose answer is complete, as far as anybody wants it. The others broke off.
WELL = frozenset({"workflow_complete", "run_stopped"})


async def end_of(store: EventStore, info: RunInfo | None, run_id: str) -> Entry | None:
    """Return the event that ended a run; ``None``: none did, or it cannot be looked at now."""
    pending = store.pending(run_id)
    if pending is not None and pending.ended:
        return pending.entries[-1]
    if info is None or info.end is None:
        return None
    try:
        found = await store.read(run_id, info.end, info.end, 1)
    except RedisUnavailable:
        return None
    return found[0] if found else None


def open_at(info: RunInfo | None, end: Entry | None, place: Place) -> Opening:
    """Judge a reader at *place*, by what is known of the run and by the event that ended it.

    That event is none of the application's: who has all before it has all. Where the answer broke
    off, it is as if there were no run. Of one that is no longer kept only the end is known: who has
    all of it is told that it is over.
    """
    opening = decide(info, place.cursor)
    if end is not None and _is_next(end, place.cursor):
        opening = Opening.NOTHING_FOLLOWS
    broke_off = end is not None and end.type not in WELL
    return Opening.ABSENT if opening is Opening.NOTHING_FOLLOWS and broke_off else opening


def _is_next(end: Entry, cursor: Cursor) -> bool:
    known = end.prev is not None and end.prev <= cursor.base
    return known or cursor.has_seen(end.producer, end.seq - 1)


class Resuming:
    """The answers from the log to one request."""

    def __init__(self, setup: Setup, scope: Scope, intake: Intake, send: Send) -> None:
        self._setup = setup
        self._scope = scope
        self._intake = intake
        self._send = send

    async def serve(
        self, seal: Seal, place: Place, presence: Presence, *, decided: bool, told: bool = False
    ) -> None:
        """Answer from *place* on, until the run ends or the client leaves.

        Args:
            decided: whether it is known that there is something to serve.
            told: whether the register knows the reader already.
        """
        hub, ended = self._setup.hub(), False
        if self._setup.is_full(hub):
            presence.left()
            await self._come_back()
            return
        try:
            await self._start(await self._headers(presence))
            subscription = Subscription(hub, place.run_id, place.cursor)
            async with subscription, listening(self._intake.until_left, subscription):
                with self._answer(subscription, seal, place.own) as answer:
                    if decided or await answer.held():
                        if not told:
                            await presence.reads()
                        await answer.relay()
                    ended = answer.ended_by is not None
                if not subscription.left:
                    await self._end()
        finally:
            if not ended:
                presence.left()

    async def wait(self) -> None:
        """Hold a client until the store can be asked; what it asks for is seen when it comes back.

        Its session was looked for while Redis was away, and stays unseen in this request.
        """
        hub = self._setup.hub()
        if self._setup.is_full(hub):
            await self._come_back()
            return
        await self._start(later_headers(None, []))
        # Of a run that is not there: nothing is looked up for whoever could not be seen.
        subscription = Subscription(hub, RUN + new_name(), Cursor())
        async with subscription, listening(self._intake.until_left, subscription):
            nobody = Seal(self._setup.keys[0], (), "", b"")
            with self._answer(subscription, nobody, "") as answer:
                await answer.until_available()
            if not subscription.left:
                await self._end()

    def _answer(self, subscription: Subscription, seal: Seal, own: str) -> Answer:
        heartbeat = self._setup.settings.stream_heartbeat
        return Answer(self._setup.hub(), subscription, seal, own, heartbeat, self._send)

    async def _headers(self, presence: Presence) -> Headers:
        run_id, here = presence.run_id, self._setup.here.get(presence.run_id)
        kept = here.headers if here is not None else None
        if kept is None and presence.register is not None:
            try:
                found = (await presence.register.look()).get(run_id)
                kept = found.headers if found else None
            except HoldfastError:
                kept = None
        mount = self._setup.settings.stream_mount
        return later_headers(kept, run_headers(run_id, self._scope.get("root_path", ""), mount))

    async def _start(self, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _come_back(self) -> None:
        retry = max(self._setup.settings.stream_retry * 5, 10)
        await sse.come_back(retry)(self._scope, self._intake.receive, self._send)
