"""A real redis-server of one's own, to be used, frozen, killed and started again.

Only the process and the few bytes of RESP that an assertion needs: no client library, so that a
test never observes Redis through the code that it tests.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

Reply: TypeAlias = "bytes | int | list[Reply] | None"

_START_SECONDS = 10.0
_STOP_SECONDS = 3.0
_REPLY_SECONDS = 5.0


class RedisServer:
    """One redis-server on a free loopback port, with a directory of its own.

    It starts empty and keeps nothing (``--save "" --appendonly no``) unless *options* say
    otherwise. The port and the directory stay the same over :meth:`kill` and :meth:`start`, so with
    ``"--appendonly", "yes", "--appendfsync", "always"`` a restart finds its data.

    Args:
        options: command line options of redis-server, such as ``"--maxmemory", "10mb"``. The last
            one of a name wins.
        binary: the program. Default ``redis-server``, then ``valkey-server``, from ``PATH``.

    Raises:
        FileNotFoundError: no such program; the message says how to install it.
    """

    def __init__(self, *options: str, binary: str | None = None) -> None:
        self._binary = _find(binary)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="holdfast-redis-")
        # Bound and never listening: it keeps the port ours while the server is down, and
        # connections to it are refused meanwhile. Redis can bind beside it, because both say
        # SO_REUSEADDR.
        self._reserved = reserve_port()
        self.port: int = self._reserved.getsockname()[1]
        self.directory = Path(self._folder.name)
        self.password = _option(options, "--requirepass")

    def __repr__(self) -> str:
        return f"<RedisServer 127.0.0.1:{self.port} {'up' if self.running else 'down'}>"

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:<port>/0``, with the password where ``--requirepass`` gave one."""
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether the process lives; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            RuntimeError: the server does not run.
        """
        return self._live().pid

    def start(self) -> None:
        """Start it, or start it again; return once it answers. Does nothing while it runs.

        Raises:
            RuntimeError: it ended instead, or did not answer within 10 s. The message ends with its
                log.
        """
        if self.running:
            return
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += [
            "--dir",
            str(self.directory),
            "--save",
            "",
            "--appendonly",
            "no",
            *self._options,
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # the caller's own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._await_reply()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it in good order (SIGTERM), so that it may save. Does nothing when it is down."""
        if self.running:
            self.thaw()
            self._signal(signal.SIGTERM)
            try:
                self._live().wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would. Does nothing when it is down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Halt it (SIGSTOP): connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again: what its persistence has kept is there, and no more."""
        self.kill()
        self.start()

    def fill(self) -> None:
        """Have it refuse writes for want of memory (``-OOM``), until :meth:`relent`."""
        self.execute("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")

    def demote(self) -> None:
        """Have it refuse writes as a replica does (``-READONLY``), until :meth:`relent`.

        Its master is nobody: it goes on serving what it has.
        """
        self.execute("REPLICAOF", "127.0.0.1", 1)

    def relent(self) -> None:
        """Take writes again, after :meth:`fill` and :meth:`demote`."""
        self.execute("REPLICAOF", "NO", "ONE")
        self.execute("CONFIG", "SET", "maxmemory", "0")

    def execute(self, *args: str | bytes | float) -> Reply:
        """Run one command on a connection of its own; return the bytes, int, list or None.

        Raises:
            RuntimeError: Redis answered with an error; its words are the message.
            OSError: it is not there, or did not answer within 5 s.
        """
        with self._connect() as connection:
            return send_command(connection, *args)

    def log(self) -> str:
        """Return what the server has printed since it was first started."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Stop it, free the port and remove the directory with all data."""
        self.stop()
        self._reserved.close()
        self._folder.cleanup()

    def _live(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self!r} does not run")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        self._live().send_signal(number)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=_REPLY_SECONDS)
        if self.password:
            send_command(connection, "AUTH", self.password)
        return connection

    def _await_reply(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self.running and time.monotonic() < deadline:
            try:
                with self._connect() as connection:
                    send_command(connection, "PING")
            except OSError:
                time.sleep(0.01)
            except RuntimeError as error:
                # LOADING: it reads its data. Any other refusal (MASTERDOWN …) is an answer.
                if not str(error).startswith("LOADING"):
                    return
                time.sleep(0.01)
            else:
                return
        raise RuntimeError(f"redis-server did not start:\n{self.log()}")


@contextlib.contextmanager
def redis_server(*options: str, binary: str | None = None) -> Iterator[RedisServer]:
    """Run a :class:`RedisServer` for the length of a ``with`` block; the arguments are its own."""
    server = RedisServer(*options, binary=binary)
    try:
        server.start()
        yield server
    finally:
        server.close()


def reserve_port() -> socket.socket:
    """Return a socket bound to a free loopback port, which is given to nobody else meanwhile.

    A server that sets ``SO_REUSEADDR`` (Redis, asyncio, uvicorn) may listen on the port meanwhile.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def _find(binary: str | None) -> str:
    for name in [binary] if binary else ["redis-server", "valkey-server"]:
        if found := shutil.which(name):
            return found
    raise FileNotFoundError(
        f"{binary or 'redis-server'} is not installed: apt-get install redis-server"
        " (or brew install redis)"
    )


def _option(options: tuple[str, ...], name: str) -> str | None:
    return options[options.index(name) + 1] if name in options else None


def send_command(connection: socket.socket, *args: str | bytes | float) -> Reply:
    words = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
    packed = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    connection.sendall(b"*%d\r\n%b" % (len(words), packed))
    with connection.makefile("rb") as stream:
        return _read(stream)


def _read(stream: BinaryIO) -> Reply:
    """Read one reply of RESP 2 (redis.io, "Redis serialization protocol specification")."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("Redis closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RuntimeError(rest.decode(errors="replace"))
    if kind == b"+":
        return rest
    size = int(rest)
    if kind == b":":
        return size
    if size < 0:
        return None
    if kind == b"*":
        return [_read(stream) for _ in range(size)]
    return stream.read(size + 2)[:-2]
