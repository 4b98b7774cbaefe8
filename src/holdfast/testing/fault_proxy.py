"""A TCP proxy that breaks connections the way networks do, on command.

It lives in a thread with an event loop of its own: a test may block its own loop, or have none, and
the faults still happen when they should. Bytes are delivered, held or lost, and altered only by
``corrupt``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import weakref
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias

from holdfast.testing.redis_process import reserve_port

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

Direction = Literal["both", "requests", "replies"]
_Held: TypeAlias = "asyncio.Queue[tuple[float, bytes]]"

_CHUNK_BYTES = 65536
# Chunks read ahead of a held or delayed peer; the kernel's buffers hold back what follows.
_HELD_CHUNKS = 64
# At a limited rate bytes go in pieces of this many seconds.
_PIECE_SECONDS = 0.02
# A socket closed with a linger time of zero sends RST in place of FIN (socket(7), SO_LINGER).
_LINGER_ZERO = struct.pack("ii", 1, 0)


class FaultProxy:
    """Forward a loopback port to ``host:port``, and fail as told.

    Use it as ``with FaultProxy(host, port) as proxy`` or with ``async with``. Each fault has taken
    effect when its method returns; all methods may be called from any thread.

    Args:
        host: where the real server listens (IPv4).
        port: its port.

    Attributes:
        port: the port to connect to instead, the same for the life of the proxy, refusing or not.
        accepted: connections accepted so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        # Bound and never listening: the port stays ours, and refuses, while the listener is closed.
        self._reserved = reserve_port()
        self.port: int = self._reserved.getsockname()[1]
        self.accepted = 0
        self._requests = _Gate()
        self._replies = _Gate()
        self._resetting = False
        self._listener: socket.socket | None = None
        self._live: dict[asyncio.Task[None], _Ends] = {}
        # To which nothing is sent any more, because we have said so (FIN).
        self._finished: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    @classmethod
    def threaded(cls, host: str, port: int) -> Self:
        """Return ``FaultProxy(host, port)``; the name says that no event loop is needed."""
        return cls(host, port)

    def __repr__(self) -> str:
        host, port = self._target
        return f"<FaultProxy 127.0.0.1:{self.port} to {host}:{port}, {self.live} live>"

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:<port>/0``, for a Redis behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def live(self) -> int:
        """How many connections are open through the proxy now."""
        return len(self._live)

    @property
    def request_bytes(self) -> int:
        """Bytes received from clients so far."""
        return self._requests.received

    @property
    def reply_bytes(self) -> int:
        """Bytes received from the server so far."""
        return self._replies.received

    def refuse(self) -> None:
        """Behave as a server that died: live connections are reset, new ones are refused."""
        self._do(self._refuse())

    def reset(self) -> None:
        """Answer with RST: live connections now, new ones as soon as they are made."""
        self._do(self._reset())

    def blackhole(self, direction: Direction = "both") -> None:
        """Deliver nothing more: connections stand, or are made, and nothing is heard.

        What is held is delivered late by :meth:`heal`, as TCP does when a network comes back, or
        lost by :meth:`cut`.

        Args:
            direction: ``"replies"`` goes on delivering what clients send, so that a command is
                carried out and its answer never heard; ``"requests"`` is the reverse. Default
                ``"both"``.
        """
        self._do(self._blackhole(direction))

    def delay(self, seconds: float) -> None:
        """Deliver each reply *seconds* late and in order; a round trip takes that much longer."""
        self._do(self._set_replies(delay=seconds))

    def throttle(self, bytes_per_second: float) -> None:
        """Let no more than so many bytes pass in each direction of each connection.

        Args:
            bytes_per_second: above 0.

        Raises:
            ValueError: it is not.
        """
        if not bytes_per_second > 0:
            raise ValueError("bytes_per_second is above 0; to let nothing pass, use blackhole()")
        self._do(self._throttle(bytes_per_second))

    def corrupt(self) -> None:
        """Flip one bit in the middle of whatever piece of a reply is delivered from now on."""
        self._do(self._set_replies(flip=True))

    def half_close(self, direction: Direction = "replies") -> None:
        """End one direction of all live connections with FIN, and go on delivering the other.

        Args:
            direction: ``"replies"`` is a server that says no more and still listens; ``"requests"``
                tells the server that its clients are done. ``"both"`` does both. Default
                ``"replies"``.
        """
        self._do(self._half_close(direction))

    def cut(self, *, reset: bool = False) -> None:
        """Close all live connections and lose what they hold; new ones work as before.

        Args:
            reset: end them with RST in place of FIN. Default false.
        """
        self._do(self._cut(reset=reset))

    def heal(self) -> None:
        """End every fault: held bytes are delivered, and new connections are accepted again."""
        self._do(self._heal())

    def close(self) -> None:
        """Close every connection, the port and the thread. The proxy cannot be used again."""
        if self._thread.is_alive():
            self.refuse()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self._reserved.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result()

    # What follows runs in the proxy's own thread.

    async def _refuse(self) -> None:
        self._unlisten()
        await self._cut(reset=True)

    async def _reset(self) -> None:
        self._resetting = True
        await self._cut(reset=True)

    async def _blackhole(self, direction: Direction) -> None:
        if direction != "replies":
            self._requests.set(shut=True)
        if direction != "requests":
            self._replies.set(shut=True)

    async def _set_replies(self, *, delay: float = 0.0, flip: bool = False) -> None:
        self._replies.set(shut=False, delay=delay, flip=flip)

    async def _throttle(self, rate: float) -> None:
        self._requests.set(shut=False, rate=rate)
        self._replies.set(shut=False, rate=rate)

    async def _half_close(self, direction: Direction) -> None:
        for client, server in list(self._live.values()):
            ending = {"replies": [client], "requests": [server], "both": [client, server]}
            for sink in ending[direction]:
                self._finished.add(sink)
                with contextlib.suppress(OSError):  # it is not connected yet, or no more
                    sink.shutdown(socket.SHUT_WR)

    async def _heal(self) -> None:
        self._resetting = False
        self._requests.set(shut=False)
        self._replies.set(shut=False)
        self._listen()

    async def _cut(self, *, reset: bool) -> None:
        ending = dict(self._live)
        for task, ends in ending.items():
            # One that is done has closed both, and is forgotten a turn later.
            if reset and not task.done():
                _send_reset_on_close(ends.client)
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _listen(self) -> None:
        if self._listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(1024)
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)
            self._listener = listener

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it left while it was queued
        self.accepted += 1
        client.setblocking(False)
        if self._resetting:
            _send_reset_on_close(client)
            client.close()
            return
        ends = _Ends(client, socket.socket())
        task = self._loop.create_task(self._forward(*ends))
        self._live[task] = ends
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        # One that was cut before it began has closed neither.
        for end in self._live.pop(task):
            end.close()

    async def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            server.setblocking(False)
            try:
                await self._loop.sock_connect(server, self._target)
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(client, server, self._requests))
                    pumps.create_task(self._pump(server, client, self._replies))
            except* OSError:
                _send_reset_on_close(client)
                _send_reset_on_close(server)

    async def _pump(self, source: socket.socket, sink: socket.socket, gate: _Gate) -> None:
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held: _Held = asyncio.Queue(_HELD_CHUNKS)
        async with asyncio.TaskGroup() as halves:
            halves.create_task(self._receive(source, held, gate))
            halves.create_task(self._deliver(held, sink, gate))

    async def _receive(self, source: socket.socket, held: _Held, gate: _Gate) -> None:
        chunk = b"-"
        while chunk:
            chunk = await self._loop.sock_recv(source, _CHUNK_BYTES)
            gate.received += len(chunk)
            await held.put((self._loop.time(), chunk))

    async def _deliver(self, held: _Held, sink: socket.socket, gate: _Gate) -> None:
        chunk = b"-"
        while chunk:
            received_at, chunk = await held.get()
            await gate.passage(received_at)
            for piece in gate.pieces(chunk):
                if sink not in self._finished:
                    await self._loop.sock_sendall(sink, piece)
                await gate.pace(len(piece))
        if sink not in self._finished:
            sink.shutdown(socket.SHUT_WR)


class _Ends(NamedTuple):
    """The two sockets of one connection through the proxy."""

    client: socket.socket
    server: socket.socket


class _Gate:
    """What one direction does with its bytes: let them pass, hold, slow down or alter them."""

    def __init__(self) -> None:
        self.received = 0
        self._shut = False
        self._delay = 0.0
        self._rate: float | None = None
        self._flip = False
        self._changed = asyncio.Event()

    def set(
        self, *, shut: bool, delay: float = 0.0, rate: float | None = None, flip: bool = False
    ) -> None:
        self._shut, self._delay, self._rate, self._flip = shut, delay, rate, flip
        self._changed.set()
        self._changed = asyncio.Event()

    async def passage(self, received_at: float) -> None:
        loop = asyncio.get_running_loop()
        while self._shut or received_at + self._delay > loop.time():
            wait = None if self._shut else received_at + self._delay - loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def pieces(self, chunk: bytes) -> list[bytes]:
        if not chunk:
            return []
        if self._flip:
            middle = len(chunk) // 2
            chunk = chunk[:middle] + bytes([chunk[middle] ^ 1]) + chunk[middle + 1 :]
        size = len(chunk) if self._rate is None else max(int(self._rate * _PIECE_SECONDS), 1)
        return [chunk[start : start + size] for start in range(0, len(chunk), size)]

    async def pace(self, size: int) -> None:
        if self._rate is not None:
            await asyncio.sleep(size / self._rate)


def _send_reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
