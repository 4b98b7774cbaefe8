"""Fixtures for every test: real servers, a clean environment, nothing left behind.

What only one part of the package needs is beside that part's tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import sys
import uuid
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import HealthCheck, settings
from tests.support.browser import chromium, missing_programs
from tests.support.external_redis import ExternalRedis
from tests.support.process import ServerProcess, uvicorn_command
from tests.support.secrecy import Ear, listen

from holdfast.testing.redis_process import RedisServer, redis_server, reserve_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from selenium.webdriver import Chrome

_TEST_PREFIX = "HOLDFAST_TEST_"
_BARE_NAMES = {"REDIS_URL", "REDIS_STREAM_ENABLED", "WEB_CONCURRENCY", "PORT"}
# A busy machine is no outage, and looks like one to who waits for a quarter of a second. A test of
# the deadline has one of its own.
_PATIENT = ("HOLDFAST_REDIS_TIMEOUT", "5")


def _holdfast_variables() -> dict[str, str]:
    """Return what of the environment holdfast would read."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _BARE_NAMES
        or (name.upper().startswith("HOLDFAST_") and not name.startswith(_TEST_PREFIX))
    }


def pytest_configure() -> None:
    """Take the machine's own configuration away: a test sees only the variables that it sets.

    But for one, of which the servers that it starts are told as well.
    """
    for name in _holdfast_variables():
        del os.environ[name]
    os.environ.update([_PATIENT])
    # A busy machine is no failure of an example, and what fails once fails the next time too.
    settings.register_profile(
        "holdfast",
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("holdfast")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, the loop that Redis and uvicorn need."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no variable of holdfast is set and no default runtime is open."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_defaults_closed_on_their_loop")
    yield
    if (runtime := sys.modules.get("holdfast.runtime")) and runtime._runtimes:
        asyncio.run(runtime.aclose())
    left = dict(_holdfast_variables().items() - {_PATIENT})
    for name in left:
        del os.environ[name]
    os.environ.update([_PATIENT])
    assert not left, f"the test has set {sorted(left)}: use monkeypatch.setenv"


@pytest.fixture(scope="session")
def ear() -> Ear:
    """What hears every log line of holdfast, and every random text that is made."""
    return listen()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Give up a teardown after half a minute, too, once its test has failed.

    The coroutine of a test that hung goes on in the loop that tears it down, and pytest-timeout
    takes its timer away at the first failure.
    """
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        return (yield)

    def give_up(*_: object) -> None:
        pytest.fail(f"the teardown of {item.nodeid} hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 30, 30)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _no_secret_in_the_log(ear: Ear) -> Iterator[None]:
    """After each test no log line of holdfast holds a secret of a session."""
    yield
    told = ear.told()
    assert not told, f"the log holds {told}"


@pytest.fixture
async def _defaults_closed_on_their_loop(anyio_backend: str) -> AsyncIterator[None]:
    yield
    if runtime := sys.modules.get("holdfast.runtime"):
        await runtime.aclose()


@pytest.fixture(scope="session")
def _shared_redis() -> Iterator[RedisServer]:
    if url := os.environ.get("HOLDFAST_TEST_REDIS_URL"):
        yield ExternalRedis(url)
        return
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(_shared_redis: RedisServer) -> RedisServer:
    """One real Redis for all tests of a process: keep to a ``key_prefix``, and never stop it."""
    return _shared_redis


@pytest.fixture
def fresh_redis() -> Iterator[RedisServer]:
    """A real, empty Redis of the test's own, to be killed, frozen or filled."""
    with redis_server() as server:
        yield server


@pytest.fixture
def key_prefix() -> str:
    """A key prefix that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}:"


@pytest.fixture
def free_port() -> Iterator[int]:
    """A loopback port that is given to nobody else during the test and refuses connections."""
    with contextlib.closing(reserve_port()) as holder:
        yield holder.getsockname()[1]


class Serve(Protocol):
    """What the ``serve`` fixture is: a maker of server processes, all stopped after the test."""

    def __call__(
        self,
        app: str | PurePath | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        wait: bool = True,
    ) -> ServerProcess: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start real server processes.

    ``serve("module:app")`` and ``serve(Path("examples/x.py"))`` run uvicorn; a list is the
    arguments of the interpreter, as in ``serve(["-m", "holdfast", "demo"])``. ``args`` are
    appended, ``{port}`` in them is the port, ``env`` is added to a clean environment. It returns
    once connections are accepted, or fails with the log; ``wait=False`` returns at once.
    """
    with contextlib.ExitStack() as stack:

        def start(
            app: str | PurePath | Sequence[str],
            *,
            env: Mapping[str, str] | None = None,
            args: Sequence[str] = (),
            wait: bool = True,
        ) -> ServerProcess:
            if isinstance(app, str | PurePath):
                command = uvicorn_command(app, args)
            else:
                command = [*app, *args]
            log = tmp_path / f"server-{uuid.uuid4().hex[:8]}.log"
            server = ServerProcess(command, log, env or {})
            stack.callback(server.close)
            server.start(wait=wait)
            return server

        yield start


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium with an empty profile. Mark its tests ``browser``."""
    if missing := missing_programs():
        told = f"{' and '.join(missing)} not installed: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver
