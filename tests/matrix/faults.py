"""The thirteen things that happen to Redis: what is really done to it, and what ends it.

Each is done to a real server, or to the network before it. What comes of it is judged elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.testing import FaultProxy, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FILLER = 1500
_SLOW_LOAD = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
_PATIENCE = 15.0


class Backend:
    """A Redis behind a network, both to be broken; its address outlives the server.

    Attributes:
        proxy: what the processes connect to.
        server: the Redis behind it now.
    """

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self.server = self._new_server()
        self.proxy = self._open.enter_context(FaultProxy.threaded("127.0.0.1", self.server.port))
        self._replica: RedisServer | None = None
        self._to_replica: FaultProxy | None = None

    def close(self) -> None:
        self._open.close()

    def _new_server(self) -> RedisServer:
        server = RedisServer(*_SLOW_LOAD)
        self._open.callback(server.close)
        server.start()
        return server

    def events(self, run: str) -> list[tuple[str, int]]:
        """Return what Redis holds of a run: who published it, and its number."""
        entries: Any = self.server.execute("XRANGE", f"run:{run}:events", "-", "+")
        found = []
        for _, fields in entries:
            pairs = dict(zip(fields[::2], fields[1::2], strict=True))
            if pairs[b"type"] == b"t":
                data = json.loads(pairs[b"data"])
                found.append((data["p"], data["n"]))
        return found

    # --- what is done ---------------------------------------------------------------------------

    def want_password(self) -> None:
        self.server.execute("CONFIG", "SET", "requirepass", "another")
        self.server.password = "another"
        self.proxy.cut()

    def want_none(self) -> None:
        self.server.execute("CONFIG", "SET", "requirepass", "")
        self.server.password = None

    def fail_to_save(self) -> None:
        """Have a snapshot fail: where its file belongs is a folder."""
        self._snapshot.unlink(missing_ok=True)
        self._snapshot.mkdir()
        self.server.execute("CONFIG", "SET", "save", "3600 1000000")
        self.server.execute("BGSAVE")
        self._until(lambda: "rdb_last_bgsave_status:err" in self._info())

    def save_again(self) -> None:
        self.server.execute("CONFIG", "SET", "save", "")
        self._snapshot.rmdir()

    @property
    def _snapshot(self) -> Path:
        return self.server.directory / "dump.rdb"

    def load_slowly(self) -> None:
        """Restart it with so many keys that it answers LOADING for some seconds.

        Nobody writes between its snapshot and its end: it is to lose nothing.
        """
        self.proxy.refuse()
        script = f"for i = 1, {_FILLER} do redis.call('SET', 'filler:' .. i, i) end"
        self.server.execute("EVAL", script, 0)
        self.server.execute("SAVE")
        self.server.kill()
        # Its own wait for an answer would outlast the loading: what is to be seen is before it.
        with self._not_waiting():
            self.server.start()
        self.proxy.heal()

    @contextlib.contextmanager
    def _not_waiting(self) -> Iterator[None]:
        waiting, self.server._await_reply = self.server._await_reply, lambda: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            self.server._await_reply = waiting  # type: ignore[method-assign]

    def end_loading(self) -> None:
        self.server._await_reply()
        script = f"for i = 1, {_FILLER} do redis.call('DEL', 'filler:' .. i) end"
        self.server.execute("EVAL", script, 0)
        self._snapshot.unlink(missing_ok=True)

    def flush_and_die(self) -> None:
        self.server.execute("FLUSHALL")
        self._snapshot.unlink(missing_ok=True)
        self.server.kill()

    def replicate(self) -> None:
        """Add a replica, in step with the master."""
        replica = self._replica = self._new_server()
        network = FaultProxy.threaded("127.0.0.1", self.server.port)
        self._to_replica = self._open.enter_context(network)
        replica.execute("REPLICAOF", "127.0.0.1", self._to_replica.port)
        self._until(lambda: "master_link_status:up" in str(replica.execute("INFO")))

    def lag(self) -> None:
        """Have the replica miss all that is written from now on; it has what was before."""
        replica, network = self._replica, self._to_replica
        if replica is None or network is None:
            raise RuntimeError("there is no replica: replicate() first")
        written = self.server.execute("INCR", "in-step")
        self._until(lambda: replica.execute("GET", "in-step") == str(written).encode())
        network.refuse()

    def fail_over(self) -> None:
        """Have the replica take over at the master's address, once that is reached again."""
        replica = self._replica
        if replica is None:
            raise RuntimeError("there is no replica: replicate() first")
        self.proxy.refuse()
        self.server.kill()
        replica.execute("REPLICAOF", "NO", "ONE")
        self.proxy._target = ("127.0.0.1", replica.port)
        self.server, self._replica = replica, None

    def _info(self) -> str:
        return str(self.server.execute("INFO", "persistence"))

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not happen to Redis in time:\n{self.server.log()}")
            time.sleep(0.01)


def _nothing(_: Backend) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """One thing that happens to Redis.

    Attributes:
        words: what is done.
        begin, end: how.
        prepare: what has to be there before anything is written.
        before_last: what is done before the last acts that precede the fault.
        loses: Redis comes back without something that it had acknowledged.
        empties: it comes back without anything, which can be seen, and made good.
        reasons: what ``/readyz`` may say of it.
    """

    words: str
    begin: Callable[[Backend], None]
    end: Callable[[Backend], None]
    reasons: frozenset[str]
    prepare: Callable[[Backend], None] = _nothing
    before_last: Callable[[Backend], None] = _nothing
    loses: bool = False
    empties: bool = False


_GONE = frozenset({"refused", "reset"})
_SILENT = frozenset({"timeout"})


def _healed(backend: Backend) -> None:
    backend.proxy.heal()


FAULTS: dict[str, Fault] = {
    "refused": Fault("connections are refused", lambda b: b.proxy.refuse(), _healed, _GONE),
    "reset": Fault("connections are reset", lambda b: b.proxy.reset(), _healed, _GONE),
    "black-hole": Fault("packets vanish", lambda b: b.proxy.blackhole(), _healed, _SILENT),
    "latency": Fault("replies come 400 ms late", lambda b: b.proxy.delay(0.4), _healed, _SILENT),
    "frozen": Fault(
        "SIGSTOP, SIGCONT", lambda b: b.server.freeze(), lambda b: b.server.thaw(), _SILENT
    ),
    "readonly": Fault(
        "it becomes a replica of nobody",
        lambda b: b.server.demote(),
        lambda b: b.server.relent(),
        frozenset({"readonly", "master_down"}),
    ),
    "oom": Fault(
        "maxmemory 1, noeviction",
        lambda b: b.server.fill(),
        lambda b: b.server.relent(),
        frozenset({"out_of_memory"}),
    ),
    "loading": Fault(
        "it is restarted and takes seconds to load its data",
        Backend.load_slowly,
        Backend.end_loading,
        _GONE | {"loading"},
    ),
    "noauth": Fault(
        "it wants a password", Backend.want_password, Backend.want_none, _GONE | {"auth"}
    ),
    "misconf": Fault(
        "its snapshot fails", Backend.fail_to_save, Backend.save_again, frozenset({"misconf"})
    ),
    "half-closed": Fault(
        "it ends its side of every connection, and still listens",
        lambda b: b.proxy.half_close(),
        _healed,
        _GONE,
    ),
    "flushed": Fault(
        "FLUSHALL, SIGKILL, and started empty",
        Backend.flush_and_die,
        lambda b: b.server.start(),
        _GONE,
        loses=True,
        empties=True,
    ),
    "failover": Fault(
        "SIGKILL, and a replica takes over that lacks the last writes",
        Backend.fail_over,
        _healed,
        _GONE,
        prepare=Backend.replicate,
        before_last=Backend.lag,
        loses=True,
    ),
}
"""By name, in the order of the table."""
