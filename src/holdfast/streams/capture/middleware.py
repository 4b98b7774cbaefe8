"""``StreamCaptureMiddleware``: an application's own event streams, resumable without a line of its.

Only the way of a request is here: who is asking, whether the log answers, and otherwise the call of
the application. Its streams become runs; what is no event stream passes as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError, RedisUnavailable
from holdfast.startup import StartError, kept_or_raised, pass_lifespan
from holdfast.streams.capture import binding
from holdfast.streams.capture.call import Call
from holdfast.streams.capture.ids import Place
from holdfast.streams.capture.intake import Intake
from holdfast.streams.capture.match import captures
from holdfast.streams.capture.presence import Presence
from holdfast.streams.capture.refresh import find_free
from holdfast.streams.capture.register import Register
from holdfast.streams.capture.resuming import Resuming, end_of, open_at
from holdfast.streams.capture.setup import Setup
from holdfast.streams.cursor import Cursor
from holdfast.streams.doors import sse
from holdfast.streams.doors.asking import CAPTURED
from holdfast.streams.doors.opening import Opening, look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.settings import Settings
    from holdfast.streams.capture.ids import Seal
    from holdfast.streams.store import EventStore


class StreamCaptureMiddleware:
    """Makes the event streams of an application resumable that knows nothing of it.

    On the paths of ``HOLDFAST_STREAM_CAPTURE`` an answer of the type ``text/event-stream`` is
    recorded as a run while it passes, and goes on when its client leaves. ``EventSource`` comes
    back with the id of the last event that it got, and is answered from the run; the application is
    not called again. Everything else passes as it is.

    Put it inside the session middleware, where there is one: an answer is then bound to its
    session, and else to the browser by a cookie of its own, ``holdfast_capture``.

    Args:
        app: the application around which it is put.
        settings: in place of those of the environment.
        store: where the runs are kept. Default: the process's own store.

    Raises:
        ConfigurationError: a variable cannot work. While an event loop runs the error is kept
            instead: it answers the lifespan, or each request by 503.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings | None = None, store: EventStore | None = None
    ) -> None:
        self.app: ASGIApp = app
        setup = kept_or_raised(lambda: Setup(settings, store))
        if isinstance(setup, StartError):
            self.app = setup
        self._setup = setup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        setup = self._setup
        if isinstance(setup, StartError):
            await self.app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await pass_lifespan(self.app, setup.runtime, scope, receive, send)
        elif captures(scope, setup.settings.stream_capture, setup.settings.stream_mount):
            await _Request(self.app, setup, scope, Intake(receive), send).serve()
        else:
            await self.app(scope, receive, send)


class _Request:
    """One request for a captured path."""

    def __init__(
        self, app: ASGIApp, setup: Setup, scope: Scope, intake: Intake, send: Send
    ) -> None:
        self._app = app
        self._setup = setup
        self._theirs = scope
        # An application changes its scope: that of a mount has another root.
        self._scope = {**scope}
        self._intake = intake
        self._send = send
        self._resuming = Resuming(setup, self._scope, intake, send)

    async def serve(self) -> None:
        """Answer it from the log, if it is for the log; else call the application."""
        given = _last_event_id(self._scope)
        sealed = given if given is not None and given.startswith(CAPTURED) else None
        # An id of ours says nothing to the application, but what it said itself.
        told = None if sealed is None else ""
        # Of every other method the application is called; it is told its own id all the same.
        again = self._scope["method"] == "GET"
        if sealed is not None or (again and given is None):
            try:
                seals = binding.seals_of(self._scope, self._setup.keys)
            except RedisUnavailable:
                # Of a session that cannot be seen nobody can say what is its own.
                if again and sealed is not None:
                    await self._resuming.wait()
                    return
                seals = []
            place, seal = _opened(seals, sealed)
            if place is None or seal is None:
                answered = again and await self._attach(seals)
            else:
                answered, told = again and await self._resume(place, seal), place.own
            if answered:
                return
        call = Call(self._setup, self._scope, self._intake, self._send)
        await call.serve(self._app, self._theirs, told)

    async def _resume(self, place: Place, seal: Seal) -> bool:
        """Continue after *place*; False where the application is to be called."""
        store = self._setup.store
        info = await look(store, place.run_id)
        opening = open_at(info, await end_of(store, info, place.run_id), place)
        if opening is Opening.NOTHING_FOLLOWS:
            await sse.answer(opening)(self._scope, self._intake.receive, self._send)
            return True
        if opening not in {Opening.SERVE, Opening.UNDECIDED}:
            return False
        presence = Presence(Register(store, seal.register), place.run_id)
        await self._resuming.serve(seal, place, presence, decided=opening is Opening.SERVE)
        return True

    async def _attach(self, seals: Sequence[Seal]) -> bool:
        """Give a page that was refreshed its answer again, if it is there and nobody reads it."""
        try:
            found = await find_free(self._setup.store, seals)
        except HoldfastError:
            return False
        if found is None:
            return False
        seal, presence = found
        place = Place(presence.run_id, Cursor(), "")
        await self._resuming.serve(seal, place, presence, decided=True, told=True)
        return True


def _last_event_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"last-event-id":
            return str(value, "utf-8", "replace")
    return None


def _opened(seals: Sequence[Seal], sealed: str | None) -> tuple[Place, Seal] | tuple[None, None]:
    """Return the place that an id names, and the seal that it was made with."""
    for seal in seals if sealed is not None else ():
        place = seal.open(sealed or "")
        if place is not None:
            return place, seal
    return None, None
