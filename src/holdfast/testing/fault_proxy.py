"""A TCP proxy that breaks connections the way networks do, on command.

It lives in a thread with an event loop of its own: a test may block its own loop, or have none, and
the faults still happen when they should. Bytes are delivered, held or lost, never altered.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from holdfast.testing.redis_process import reserve_port

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

Direction = Literal["both", "requests", "replies"]
_Held: TypeAlias = "asyncio.Queue[tuple[float, bytes]]"

_CHUNK_BYTES = 65536
# Chunks read ahead of a held or delayed peer; the kernel's buffers hold back what follows.
_HELD_CHUNKS = 64
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
        self._live: dict[asyncio.Task[None], socket.socket] = {}
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
        self._do(self._delay(seconds))

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

    async def _delay(self, seconds: float) -> None:
        self._replies.set(shut=False, delay=seconds)

    async def _heal(self) -> None:
        self._resetting = False
        self._requests.set(shut=False)
        self._replies.set(shut=False)
        self._listen()

    async def _cut(self, *, reset: bool) -> None:
        ending = dict(self._live)
        for task, client in ending.items():
            if reset:
                _send_reset_on_close(client)
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
        task = self._loop.create_task(self._forward(client))
        self._live[task] = client
        task.add_done_callback(self._live.pop)

    async def _forward(self, client: socket.socket) -> None:
        with client, socket.socket() as server:
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
            if chunk:
                await self._loop.sock_sendall(sink, chunk)
        sink.shutdown(socket.SHUT_WR)


class _Gate:
    """What one direction does with its bytes: let them pass, hold them, or let them pass late."""

    def __init__(self) -> None:
        self.received = 0
        self._shut = False
        self._delay = 0.0
        self._changed = asyncio.Event()

    def set(self, *, shut: bool, delay: float = 0.0) -> None:
        self._shut, self._delay = shut, delay
        self._changed.set()
        self._changed = asyncio.Event()

    async def passage(self, received_at: float) -> None:
        loop = asyncio.get_running_loop()
        while self._shut or received_at + self._delay > loop.time():
            wait = None if self._shut else received_at + self._delay - loop.time()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)


def _send_reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
