"""Noticing on a loop that a client has left, while a thread waits for something to send him.

A WSGI server tells it only by a write that fails, and a heartbeat may be far off. Some give the
application their socket: there the end of what the client says is seen as it comes.
"""

from __future__ import annotations

import _socket
import asyncio
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

# gunicorn's workers, gunicorn's gevent_pywsgi, Werkzeug's server.
_SOCKETS = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket")


class Leaving:
    """Whether the client of one request has left. Used on *loop* alone.

    Args:
        loop: the loop.
        environ: of the request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, environ: WSGIEnvironment) -> None:
        self._loop = loop
        self._server: socket.socket | None = next(filter(None, map(environ.get, _SOCKETS)), None)
        self._peer: _socket.socket | None = None
        self._left = asyncio.Event()

    async def wait(self) -> None:
        """Wait until the client has left."""
        self._watch()
        await self._left.wait()

    def leave(self) -> None:
        """Note that the client has left."""
        self.forget()
        self._left.set()

    def forget(self) -> None:
        """Watch the connection no more."""
        self._server = None
        if self._peer is not None:
            peer, self._peer = self._peer, None
            self._loop.remove_reader(peer.fileno())
            peer.close()

    def _watch(self) -> None:
        if self._server is None or self._peer is not None:
            return
        try:
            # A number of its own: the server may close its own at any moment, and another
            # connection be given the same.
            number = os.dup(self._server.fileno())
            waits = os.get_blocking(number)
            # Below the module that gevent patches: its own would have this thread wait in recv().
            self._peer = _socket.socket(fileno=number)
            # A default timeout has just been set, for the server's own socket as well.
            os.set_blocking(number, waits)
            self._loop.add_reader(self._peer.fileno(), self._look, self._peer)
        except (OSError, NotImplementedError):
            self.forget()

    def _look(self, peer: _socket.socket) -> None:
        try:
            said = peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said:
            # It asks for something else already, or says its farewell by TLS: what comes after
            # that cannot be seen from here. The next heartbeat will tell.
            self.forget()
        else:
            self.leave()
