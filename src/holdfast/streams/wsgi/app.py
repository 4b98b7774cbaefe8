"""The sub-app for WSGI: what a user mounts, and how an answer is handed to the server.

All that is decided is decided by the doors of the ASGI app, on one event loop for the whole
process; a thread of the server carries one answer out, part by part.
"""

from __future__ import annotations

import logging
import math
from time import monotonic
from typing import TYPE_CHECKING, Self

from holdfast.endings import BOND_KEY, endings
from holdfast.errors import ConfigurationError
from holdfast.forks import watch_forks
from holdfast.streams import problems, shutdown
from holdfast.streams.doors.http_door import http_door
from holdfast.streams.doors.service import Service
from holdfast.streams.doors.sse import WAIT_AT_MOST
from holdfast.streams.select import close_hubs, forget_hubs
from holdfast.streams.wsgi.crossing import Crossing, is_event_stream
from holdfast.streams.wsgi.environ import head_of, scope_of
from holdfast.streams.wsgi.loop import LoopThread

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from starlette.types import Message

    from holdfast.settings import Settings
    from holdfast.streams.store import EventStore

log = logging.getLogger("holdfast.streams")

SILENCE = 1.0
"""Seconds of silence after which a stream ends where the server does one thing at a time."""
TURN = 3.0
"""Seconds after which it ends there in any case: others wait, and gunicorn kills who takes 30."""


class WSGIEventStreamApp:
    """A WSGI app that serves the events of runs: :class:`EventStreamApp` for threads and greenlets.

    It has the same addresses, checks and answers; but WSGI has no WebSockets, and theirs are
    answered 501. An open stream holds a thread of the server (gunicorn's ``gthread``) or a greenlet
    (``gevent``) until it ends. Where the server serves one request at a time (``wsgi.multithread``
    is false), a stream brings what there is, ends after a second of silence and after three in any
    case, and its reader comes back for more.

    Mount it by the environ's ``SCRIPT_NAME``, as ``DispatcherMiddleware`` of Werkzeug does. One
    event loop in a thread of its own serves all readers of a process, over the same few connections
    to Redis; it begins with the first request, in each process that a server has forked.

    Args:
        settings: the configuration. Default: the environment.
        store: where the events are. Default: the process's own store.

    Raises:
        ConfigurationError: a variable cannot work.
    """

    def __init__(
        self, *, settings: Settings | None = None, store: EventStore | None = None
    ) -> None:
        self._service = service = Service(settings, store)
        self._shared = store is not None
        self._door = http_door(service, websocket=problems.NO_WEBSOCKET)
        self._endings, self._link = endings(service.runtime), service.runtime.link
        self._loop = LoopThread(self._end)
        self._inherited: list[object] = []
        self._told = False
        service.runtime.on_close(self._loop.aclose)
        watch_forks(self)
        self._hear_signals()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        self._hear_signals()
        if self._link is not None:
            # From here: under gevent its thread is a greenlet, which the loop's thread has no
            # time for.
            self._link.start()
        crossing = Crossing(self._loop.life(), environ)
        door = self._door if self._may_serve(environ) else problems.UNAVAILABLE.response()
        bond = environ.get(BOND_KEY)
        scope = scope_of(environ)
        if _one_at_a_time(environ):
            scope[WAIT_AT_MOST] = SILENCE
        crossing.begin(door if bond is None else bond(door), scope)
        try:
            return self._answer(crossing, environ, start_response)
        except BaseException:
            # Also a greenlet's timeout: nobody takes what comes.
            crossing.leave()
            raise

    def _answer(
        self, crossing: Crossing, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        head = crossing.take()
        if head is None:
            return _unanswered(crossing, start_response)
        lasts = is_event_stream(head["headers"])
        start_response(*head_of(head["status"], head["headers"]))
        in_turn = lasts and _one_at_a_time(environ)
        if in_turn:
            self._tell_of_turns()
        answer = _Answer(crossing, in_turn=in_turn)
        if environ["REQUEST_METHOD"] == "HEAD":
            answer.close()
            return []
        return answer if lasts else [b"".join(answer)]

    def close(self) -> None:
        """Let every reader go now, to come back at another process; for good, and from any thread.

        For a server whose signals nobody can hear; call it when that is told to stop. ``readyz``
        answers 503 from then on.
        """
        self._service.close()

    def forked(self) -> None:
        """In a forked child: who reads in the parent is not served here."""
        self._inherited += (hubs := forget_hubs(self._service.store))
        shutdown.forget(hubs)

    def _may_serve(self, environ: WSGIEnvironment) -> bool:
        """Whether what is published by one process of the server is seen by the others."""
        if environ.get("wsgi.multiprocess") and not self._shared:
            try:
                self._service.settings.check_workers(2)
            except ConfigurationError as error:
                self._service.required.tell(error)
                return False
        return True

    def _tell_of_turns(self) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "this server serves one request at a time, so that event streams end after %s s of "
                "silence, and after %s s in any case, and their readers ask again: use threads "
                "(gunicorn --threads 8) or gevent",
                SILENCE,
                TURN,
            )

    def _hear_signals(self) -> None:
        # The hub lives on a thread that can install no handler; this one may be able to.
        if self._service.settings.stream_handle_signals:
            shutdown.listen()

    async def _end(self) -> None:
        """Close what readers used, on the loop that they used it on."""
        await close_hubs(self._service.store)
        await self._endings.aclose()
        if self._link is not None:
            await self._link.aclose()


def _one_at_a_time(environ: WSGIEnvironment) -> bool:
    return not environ.get("wsgi.multithread")


def _unanswered(crossing: Crossing, start_response: StartResponse) -> list[bytes]:
    """Return what is left to say where the app said nothing: to nobody, if the client has left."""
    if not crossing.gone:
        raise RuntimeError("the request could not be served; the log says why")
    start_response("400 Bad Request", [("content-type", "text/plain; charset=utf-8")])
    return []


class _Answer:
    """The body of one answer, as PEP 3333 has it.

    Args:
        crossing: of its request.
        in_turn: it ends before its time, because nobody else is served meanwhile.
    """

    def __init__(self, crossing: Crossing, *, in_turn: bool) -> None:
        self._crossing = crossing
        self._until = monotonic() + TURN if in_turn else math.inf
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Wait for the next part; an empty one would end the answer on some servers."""
        while not self._over:
            part = self._take()
            if part is not None and part["body"]:
                return bytes(part["body"])
        raise StopIteration

    def close(self) -> None:
        """The server is done with it, or has lost the client."""
        self._over = True
        self._crossing.leave()

    def _take(self) -> Message | None:
        left = self._until - monotonic()
        if left <= 0:
            self.close()
            return None
        try:
            part = self._crossing.take(-1 if left == math.inf else min(left, SILENCE))
        except TimeoutError:
            self.close()
            return None
        self._over = part is None or not part.get("more_body", False)
        return part
