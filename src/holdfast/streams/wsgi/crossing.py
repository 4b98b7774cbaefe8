"""One request on its way between two threads: the server's, which blocks, and the loop's.

What the app on the loop sends is taken in the server's thread; what the client sends is read there,
and only when the app asks for it. At most one part waits: for the next one the app waits as it does
for a slow client, so that nothing grows here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from holdfast.streams.wsgi.environ import body_size
from holdfast.streams.wsgi.leaving import Leaving

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from wsgiref.types import InputStream, WSGIEnvironment

    from starlette.types import ASGIApp, Message, Scope

    from holdfast.streams.wsgi.loop import Life

log = logging.getLogger("holdfast.streams")

_PIECE = 1 << 16


class Crossing:
    """One request, served by an app on the loop of *life*.

    Args:
        life: of the loop where the app runs.
        environ: of the request.

    Attributes:
        gone: the client has left.
    """

    def __init__(self, life: Life, environ: WSGIEnvironment) -> None:
        self._life = life
        self._loop = loop = life.loop()
        self._input: InputStream = environ["wsgi.input"]
        self._left_to_read = body_size(environ)
        self._box: deque[Message | _Order] = deque()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._room: asyncio.Future[None] | None = None
        self._piece: asyncio.Future[bytes | None] | None = None
        self._leaving = Leaving(loop, environ)
        self.gone = self._whole = False
        self._task: asyncio.Task[None] | None = None

    # --- in the server's thread -----------------------------------------------------------------

    def begin(self, app: ASGIApp, scope: Scope) -> None:
        """Have *app* serve the request.

        Raises:
            RuntimeError: the loop has been closed.
        """
        self._life.waiting[self._end] = None
        self._loop.call_soon_threadsafe(self._begin, app, scope)

    def take(self, patience: float = -1) -> Message | None:
        """Wait for the next thing that the app sends; ``None``: it is done, or has failed.

        Args:
            patience: seconds to wait at most; negative for ever.

        Raises:
            TimeoutError: nothing came in that time.
            OSError: the client left while its body was read.
        """
        while True:
            while not self._box:
                if not self._bell.acquire(timeout=patience):
                    raise TimeoutError
            item = self._box.popleft()
            if self._room is not None:
                self._call(self._let_on)
            if not isinstance(item, _Order):
                return item
            if item is _END:
                return None
            self._read()

    def leave(self) -> None:
        """Nothing more will be taken: the client has left, or the answer is whole."""
        self._call(self._leave)

    def _read(self) -> None:
        """Read a piece of the body for the app, which waits for it."""
        left = self._left_to_read
        piece = None
        try:
            piece = self._input.read(_PIECE if left is None else min(left, _PIECE))
        finally:
            self._call(self._give, piece)

    def _call(self, callback: Callable[..., object], *args: object) -> None:
        # The loop may have been closed, and with it all that it served.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    # --- on the loop ----------------------------------------------------------------------------

    def _begin(self, app: ASGIApp, scope: Scope) -> None:
        if self._life.over:
            self._end()
            return
        self._task = self._loop.create_task(self._serve(app, scope))
        # Not at its own end: cancelled before its first step, it has none.
        self._task.add_done_callback(self._served)

    async def _serve(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            log.exception("the answer to a request breaks off")

    def _served(self, task: asyncio.Task[None]) -> None:
        # Before the server may close its own end of the connection.
        self._leaving.forget()
        self._end()

    def _end(self) -> None:
        self._life.waiting.pop(self._end, None)
        self._put(_END)

    async def _receive(self) -> Message:
        if self.gone or self._whole:
            await self._leaving.wait()
            self.gone = True
            return {"type": "http.disconnect"}
        piece = await self._asked() if self._left_to_read != 0 else b""
        if piece is None or (not piece and self._left_to_read):
            # It ends before it is whole.
            self.gone = True
            return {"type": "http.disconnect"}
        self._left_to_read = _rest(self._left_to_read, piece)
        self._whole = self._left_to_read == 0
        return {"type": "http.request", "body": piece, "more_body": not self._whole}

    async def _asked(self) -> bytes | None:
        self._piece = self._loop.create_future()
        self._put(_READ)
        return await self._piece

    async def _send(self, message: Message) -> None:
        # After a disconnect it is silent, as on every server.
        if self.gone:
            return
        self._put(message)
        if len(self._box) > 1:
            self._room = self._loop.create_future()
            # Looked at once more, after the future was put down: whoever takes looks for it after.
            if len(self._box) > 1:
                await self._room
            self._room = None

    def _put(self, item: Message | _Order) -> None:
        self._box.append(item)
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def _let_on(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _give(self, piece: bytes | None) -> None:
        if self._piece is not None and not self._piece.done():
            self._piece.set_result(piece)

    def _leave(self) -> None:
        self.gone = True
        self._let_on()
        self._give(None)
        self._leaving.leave()


class _Order:
    """What the server's thread is to do."""


_READ, _END = _Order(), _Order()


def _rest(size: int | None, piece: bytes) -> int | None:
    """Return how much of a body follows *piece*; ``None``: until its end."""
    if size is None:
        return None if piece else 0
    return size - len(piece)


def is_event_stream(headers: Any) -> bool:
    """Whether an answer with *headers* is one that lasts."""
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in headers
    )
