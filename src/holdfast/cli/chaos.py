"""`holdfast chaos`: the demo through an outage, and what its visitors would have seen.

Here is what starts, breaks and asks; what is said of it is in ``sightings.py``. The Redis, the
network and the server are its own: nothing that is configured is touched.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import missing
from holdfast.cli.sightings import Answer, Sightings, table, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from holdfast.cli.sightings import Kind
    from holdfast.testing import FaultProxy, RedisServer

_VISIT_EVERY = 0.2
_WATCH_EVERY = 0.1
_COME_BACK = 0.2
_GIVE_UP = 10.0
_START_PATIENCE = 20.0
_BACK_PATIENCE = 30.0
_SETTLE = 1.5
_NO_ANSWER = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Fault:
    """One thing that can happen to Redis: in words, how it is done, and how it is undone."""

    words: str
    begin: Callable[[FaultProxy, RedisServer], None]
    end: Callable[[FaultProxy, RedisServer], None]


FAULTS = {
    "killed": Fault("killed", lambda _, redis: redis.kill(), lambda _, redis: redis.start()),
    "frozen": Fault(
        "frozen, as by SIGSTOP", lambda _, redis: redis.freeze(), lambda _, redis: redis.thaw()
    ),
    "black-hole": Fault(
        "cut off: packets vanish",
        lambda network, _: network.blackhole(),
        lambda network, _: network.heal(),
    ),
    "slow": Fault(
        "late: every reply takes two seconds more",
        lambda network, _: network.delay(2.0),
        lambda network, _: network.heal(),
    ),
    "full": Fault(
        "full: it refuses every write",
        lambda _, redis: redis.fill(),
        lambda _, redis: redis.relent(),
    ),
    "read-only": Fault(
        "a replica: it refuses every write",
        lambda _, redis: redis.demote(),
        lambda _, redis: redis.relent(),
    ),
}


@click.command()
@click.option(
    "--fault",
    type=click.Choice(list(FAULTS)),
    default="killed",
    show_default=True,
    help="What happens to Redis.",
)
@click.option(
    "--mode",
    type=click.Choice(["local", "readonly", "closed"]),
    default="local",
    show_default=True,
    help="HOLDFAST_SESSION_ON_OUTAGE.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 300),
    default=5.0,
    show_default=True,
    help="For how long.",
)
@click.option(
    "--visitors", type=click.IntRange(1, 100), default=8, show_default=True, help="How many."
)
@click.pass_context
def chaos(context: click.Context, fault: str, mode: str, seconds: float, visitors: int) -> None:
    """Run the demo through an outage and print what its users see.

    It starts a Redis and a server of its own, which needs redis-server on the PATH, and touches
    nothing that is configured. Exit status: 0 every promise was kept, 1 one was broken, 2 it could
    not begin.
    """
    with _world(mode) as world:
        seen = _through(world, FAULTS[fault], seconds, visitors)
    click.echo(f"Redis was {seen.words}, for {seen.ended - seen.begun:.1f} s; mode {mode}.\n")
    for line in table(seen):
        click.echo(line)
    click.echo()
    found = list(verdicts(seen))
    for verdict in found:
        mark = click.style("kept  ", "green") if verdict.kept else click.style("BROKEN", "red")
        click.echo(f"{mark}  {verdict.text}")
    context.exit(0 if all(verdict.kept for verdict in found) else 1)


@dataclass
class _World:
    """A Redis, the network before it, and the demo's port."""

    redis: RedisServer
    network: FaultProxy
    port: int
    begun: float = field(default_factory=time.monotonic)

    @property
    def now(self) -> float:
        return time.monotonic() - self.begun


@contextlib.contextmanager
def _world(mode: str) -> Iterator[_World]:
    from holdfast.testing import FaultProxy, RedisServer
    from holdfast.testing.redis_process import reserve_port

    try:
        import uvicorn  # noqa: F401 - the demo needs it, and says so less well
    except ModuleNotFoundError:
        missing("uvicorn")
    with contextlib.ExitStack() as stack:
        try:
            redis = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        except FileNotFoundError as error:
            click.echo(f"holdfast chaos: {error}", err=True)
            raise SystemExit(2) from None
        stack.callback(redis.close)
        redis.start()
        network = stack.enter_context(FaultProxy.threaded("127.0.0.1", redis.port))
        holder = stack.enter_context(contextlib.closing(reserve_port()))
        world = _World(redis, network, holder.getsockname()[1])
        log = stack.enter_context(tempfile.TemporaryFile())
        # `env`, because only the settings read the environment of this process.
        variables = [f"HOLDFAST_REDIS_URL={network.url}", f"HOLDFAST_SESSION_ON_OUTAGE={mode}"]
        command = ["env", "-u", "HOLDFAST_REDIS_URL_FILE", *variables]
        command += [sys.executable, "-m", "holdfast", "demo", "--port", str(world.port)]
        server = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        stack.callback(_end, server)
        _await_start(world, server, log)
        world.begun = time.monotonic()
        yield world


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_GIVE_UP)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _await_start(world: _World, server: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_PATIENCE
    visitor = _Visitor(world, Sightings(), "nobody")
    while server.poll() is None and time.monotonic() < deadline:
        if visitor.ask("GET", "/streams/readyz")[0] == 200:
            return
        time.sleep(0.05)
    log.seek(0)
    text = log.read().decode(errors="replace")
    click.echo(f"holdfast chaos: the demo did not start:\n{text}", err=True)
    raise SystemExit(2)


class _Visitor:
    """One browser: a name, a cookie, and one request after the other."""

    def __init__(self, world: _World, seen: Sightings, name: str) -> None:
        self._world = world
        self._seen = seen
        self._name = name
        self._cookie = ""

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any, str]:
        """Return status, body and the session's new cookie; status 0 where no answer came."""
        connection = http.client.HTTPConnection("127.0.0.1", self._world.port, timeout=_GIVE_UP)
        headers = {"Cookie": self._cookie} if self._cookie else {}
        try:
            connection.request(method, path, body and json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            cookie = SimpleCookie(answer.getheader("set-cookie") or "")
        except _NO_ANSWER:
            return 0, None, ""
        finally:
            connection.close()
        is_json = (answer.getheader("content-type") or "").startswith("application/json")
        new = "; ".join(f"{each.key}={each.value}" for each in cookie.values())
        return answer.status, json.loads(text) if is_json else None, new

    def log_in(self) -> None:
        """Log in, before anything is broken.

        Raises:
            click.ClickException: that failed, so there is nothing to be shown.
        """
        status, _, self._cookie = self.ask("POST", "/api/login", {"name": self._name})
        if status != 200:
            raise click.ClickException(f"the demo answered {status} to a login")

    def reader_of_a_run(self) -> _Reader:
        """Set the demo's agent to work; return who follows it."""
        _, run, _ = self.ask("POST", "/api/runs", {"task": "checkout", "rounds": 25, "speed": 2})
        _, given, _ = self.ask("GET", f"/api/runs/{run['run_id']}/token")
        path = f"/streams/runs/{run['run_id']}/events/stream?token={given['token']}"
        return _Reader(self._world, self._seen, path, self._cookie)

    def visit(self, kind: Kind) -> None:
        """Look at the page once, and write down what it said."""
        at, begun = self._world.now, time.monotonic()
        status, body, new = self.ask("GET", "/api/session")
        self._cookie = new or self._cookie
        user, available = (body["user"], body["available"]) if status == 200 else (None, True)
        self._note(at, kind, status, begun, user, available)

    def visit_until(self, over: threading.Event) -> None:
        while not over.wait(_VISIT_EVERY):
            self.visit("visit")

    def log_out(self) -> None:
        """Log out, and keep the cookie all the same, as a thief would."""
        at, begun = self._world.now, time.monotonic()
        status, _, _ = self.ask("POST", "/api/logout")
        self._note(at, "logout", status, begun, None, True)

    def _note(
        self, at: float, kind: Kind, status: int, begun: float, user: str | None, available: bool
    ) -> None:
        seconds = time.monotonic() - begun
        self._seen.answers.append(Answer(at, self._name, kind, status, seconds, user, available))


def _through(world: _World, fault: Fault, seconds: float, count: int) -> Sightings:
    """Have visitors there before, during and after; return what they saw."""
    seen = Sightings(words=fault.words)
    people = [_Visitor(world, seen, f"visitor {number + 1}") for number in range(count)]
    leaver = _Visitor(world, seen, "leaver")
    for each in (*people, leaver):
        each.log_in()
    leaver.visit("visit")
    reader = people[0].reader_of_a_run()
    over = threading.Event()
    work = [partial(each.visit_until, over) for each in people]
    work += [partial(_watch, world, seen, over), partial(reader.read_until, over)]
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    time.sleep(_SETTLE)
    seen.begun = world.now
    fault.begin(world.network, world.redis)
    time.sleep(seconds / 2)
    leaver.log_out()
    time.sleep(max(0.0, seen.begun + seconds - world.now))
    fault.end(world.network, world.redis)
    seen.ended = world.now
    _await_back(world, seen)
    time.sleep(_SETTLE)
    over.set()
    for thread in threads:
        thread.join(_GIVE_UP)
    for each in people:
        each.visit("last visit")
    leaver.visit("old cookie")
    return seen


def _watch(world: _World, seen: Sightings, over: threading.Event) -> None:
    """Write down what the process says of Redis."""
    asking = _Visitor(world, seen, "watch")
    while not over.wait(_WATCH_EVERY):
        at = world.now
        status, body, _ = asking.ask("GET", "/streams/readyz")
        if status:
            seen.states.append((at, body["redis"]))


class _Reader:
    """A page that shows the run: it comes back when it is let go, as ``EventSource`` does."""

    def __init__(self, world: _World, seen: Sightings, path: str, cookie: str) -> None:
        self._world = world
        self._seen = seen
        self._path = path
        self._cookie = cookie
        self._last_id = ""

    def read_until(self, over: threading.Event) -> None:
        while not over.wait(_COME_BACK):
            connection = http.client.HTTPConnection("127.0.0.1", self._world.port, timeout=_GIVE_UP)
            with (
                contextlib.closing(connection),
                contextlib.suppress(OSError, http.client.HTTPException),
            ):
                headers = {"Cookie": self._cookie, "Last-Event-ID": self._last_id}
                connection.request("GET", self._path, headers=headers)
                answer = connection.getresponse()
                if answer.status == 200:
                    self._take(answer, over)

    def _take(self, answer: http.client.HTTPResponse, over: threading.Event) -> None:
        kind = ""
        for line in iter(answer.readline, b""):
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                self._last_id = value
            elif name == "event":
                kind = value
            elif name == "data" and kind in {"holdfast.gap", "holdfast.reset"}:
                self._seen.told.append(kind.removeprefix("holdfast."))
            elif name == "data":
                self._seen.numbers.append((self._world.now, json.loads(value)["n"]))
            if over.is_set():
                return


def _await_back(world: _World, seen: Sightings) -> None:
    deadline = time.monotonic() + _BACK_PATIENCE
    while time.monotonic() < deadline:
        at, said = seen.states[-1] if seen.states else (0.0, "")
        if at > seen.ended and said == "up":
            seen.back = at
            return
        time.sleep(_WATCH_EVERY)
