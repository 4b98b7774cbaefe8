"""Calling the application, in a task of its own: its event stream may outlive the request.

What is no event stream passes as if nobody stood between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.errors import RedisUnavailable
from holdfast.streams.capture import binding, match
from holdfast.streams.capture.answering import Answer
from holdfast.streams.capture.aside import Aside
from holdfast.streams.capture.ids import RUN, new_name
from holdfast.streams.capture.presence import Presence
from holdfast.streams.capture.recording import Recording
from holdfast.streams.capture.register import Register
from holdfast.streams.capture.upkeep import look_after
from holdfast.streams.cursor import Cursor
from holdfast.streams.fanout.pulse import listening
from holdfast.streams.fanout.subscription import Subscription

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope, Send

    from holdfast.streams.capture.binding import Bound
    from holdfast.streams.capture.intake import Intake
    from holdfast.streams.capture.register import Headers
    from holdfast.streams.capture.setup import Setup

_running: set[asyncio.Task[None]] = set()


class Call:
    """One call of the application, and the client that it answers.

    Args:
        scope: of the request, as it came.
    """

    def __init__(self, setup: Setup, scope: Scope, intake: Intake, send: Send) -> None:
        self._setup = setup
        self._scope = scope
        self._intake = intake
        self._send = send
        self._left_alone = False
        self._first: _First | None = None
        #: The answer is captured, or complete.
        self._decided = asyncio.Event()

    async def serve(self, app: ASGIApp, scope: Scope, last_event_id: str | None) -> None:
        """Call *app* and answer its client.

        Args:
            scope: of the request, for the application to change.
            last_event_id: what the application is told; ``None``: what the client says.
        """
        told = None if last_event_id is None else last_event_id.encode()

        def leave_alone() -> bool:
            self._left_alone = self._first is None
            return self._left_alone

        match.prepare(scope, leave_alone, told)
        task = self._task = asyncio.get_running_loop().create_task(self._run(app, scope))
        _running.add(task)
        task.add_done_callback(_running.discard)
        task.add_done_callback(lambda _: self._decided.set())
        try:
            await self._decided.wait()
        except asyncio.CancelledError:
            await self._give_up()
            raise
        if self._first is None:
            task.result()
        else:
            await self._first.serve(self._intake)

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._intake.receive, self._sent)

    async def _give_up(self) -> None:
        """The request is over, before its answer has begun: so is the call; or it goes on alone."""
        if self._first is not None:
            self._first.leave()
        else:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _sent(self, message: Message) -> None:
        if self._first is not None:
            await self._first.recording.take(message)
            return
        if message["type"] == "http.response.start":
            start = match.in_lower_case(message)
            if (bound := self._bound(start)) is not None:
                self._first = _First(self._setup, self._scope, start, bound, self._task, self._send)
                self._intake.detached = True
                self._decided.set()
                return
        await self._send(message)

    def _bound(self, start: Message) -> Bound | None:
        """Return what an answer that begins so is bound to, ``None``: it passes as it is."""
        if self._left_alone or not match.is_event_stream(start):
            return None
        # One reader too many is served by the application alone, as it would be without us.
        if self._setup.is_full(self._setup.hub()):
            return None
        try:
            return binding.bind(self._scope, self._setup.keys, start["headers"])
        except RedisUnavailable:
            # Bound to the browser, it would be the next visitor's after a logout.
            return None


class _First:
    """The first reader of a captured answer: the client that the application answers."""

    def __init__(
        self,
        setup: Setup,
        scope: Scope,
        start: Message,
        bound: Bound,
        task: asyncio.Task[None],
        send: Send,
    ) -> None:
        self._setup = setup
        self._send = send
        self._task = task
        self._hub = setup.hub()
        self._seal = bound.seal
        # Only a GET is ever asked again by a browser on its own.
        again = scope["method"] == "GET"
        register = Register(setup.store, bound.seal.register) if again else None
        self._presence = Presence(register, RUN + new_name())
        self._start = {
            **start,
            "headers": self._headers(scope, start, bound.cookie),
        }
        self.recording = Recording(
            *(setup.store, self._presence, bound.owner, task),
            match.headers_to_keep(start["headers"]),
            _aside(setup),
            self._upkeep,
        )

    async def serve(self, intake: Intake) -> None:
        """Answer the client; what the application still says is recorded, whatever comes of it."""
        recording, ended = self.recording, False
        try:
            await self._begin()
            subscription = Subscription(self._hub, recording.run_id, Cursor())
            async with subscription, listening(intake.until_left, subscription):
                recording.begin()
                with self._answer(subscription) as answer:
                    await answer.relay()
                    ended = answer.ended_by is not None
                left = subscription.left
        finally:
            self.leave(ended=ended)
        if not left:
            await self._end()

    def leave(self, *, ended: bool = False) -> None:
        """The client is gone, or has all there was; what is recorded goes on."""
        self.recording.begin()
        self.recording.leave()
        if not ended:
            self._presence.left()

    async def _begin(self) -> None:
        try:
            await self._send(self._start)
        except OSError:
            raise  # the client is gone
        except Exception:
            # What stands around us refuses the answer: it would have told the application.
            self._task.cancel()
            await asyncio.wait({self._task})
            raise

    def _answer(self, subscription: Subscription) -> Answer:
        heartbeat = self._setup.settings.stream_heartbeat
        return Answer(
            *(self._hub, subscription, self._seal, "", heartbeat, self._send),
            aside=self.recording.aside,
        )

    async def _end(self) -> None:
        """End the answer as the application did: completely, or by what it raised."""
        if not self.recording.complete and self._task.done() and not self._task.cancelled():
            self._task.result()
            return
        rest = self.recording.aside.rest
        await self._send({"type": "http.response.body", "body": rest, "more_body": False})
        for message in self.recording.aside.trailers:
            await self._send(message)
        if self.recording.complete:
            # Its background tasks belong to its request.
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.result()

    async def _upkeep(self, recording: Recording) -> None:
        here, settings = self._setup.here, self._setup.settings
        here[recording.run_id] = recording
        try:
            await look_after(
                *(recording, self._hub, self._presence.register),
                abandon=settings.stream_capture_abandon,
                retention=settings.stream_retention,
            )
        finally:
            del here[recording.run_id]

    def _headers(self, scope: Scope, start: Message, cookie: str | None) -> Headers:
        settings = self._setup.settings
        root = scope.get("root_path", "")
        more = match.run_headers(self._presence.run_id, root, settings.stream_mount)
        if cookie is not None:
            more.append((b"set-cookie", binding.set_cookie(cookie, settings)))
        return match.first_headers(start["headers"], more)


def _aside(setup: Setup) -> Aside:
    """Return the way past the log, for a client who is to miss nothing that the log drops."""
    settings = setup.settings
    return Aside(max(settings.stream_maxlen // 2, 1), settings.stream_max_run_bytes // 2)
