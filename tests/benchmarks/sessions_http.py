"""Sessions over HTTP: a uvicorn for each contender, the same application in each, and wrk.

Run it as ``python -m tests.benchmarks.sessions_http [rounds] [seconds]``. What counts is requests a
second and the CPU that the server's process took for each; contenders follow each other within a
round, so that a slow moment of the machine falls on all alike.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starsessions import SessionAutoloadMiddleware
from starsessions import SessionMiddleware as Starsessions
from starsessions.stores.redis import RedisStore
from tests.benchmarks.measures import ratio, spread, tuned
from tests.benchmarks.sessions import KEY, session_of
from tests.support.process import ServerProcess

from holdfast import SessionMiddleware
from holdfast.settings import Settings
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

CONTENDERS = ("holdfast", "bare Starlette", "starsessions", "starsessions, redis-py tuned")
_URL, _CONTENDER = "SESSIONS_HTTP_REDIS_URL", "SESSIONS_HTTP_CONTENDER"


class Contest(NamedTuple):
    """One page, asked for by every contender's visitor."""

    title: str
    path: str
    cookie: bool
    contenders: tuple[str, ...]
    connections: tuple[int, ...]


CONTESTS = (
    Contest("a page without a session, no cookie", "/plain", False, CONTENDERS[:2], (1, 50)),
    Contest(
        "a page that reads its session", "/read", True, CONTENDERS[:1] + CONTENDERS[2:], (1, 50)
    ),
    Contest(
        "a page that reads and writes its session",
        "/write",
        True,
        CONTENDERS[:1] + CONTENDERS[2:],
        (1, 50),
    ),
)


class Measure(NamedTuple):
    """One contender in one round."""

    per_second: float
    cpu_us: float


# --- the server -----------------------------------------------------------------------------------


async def plain(request: Request) -> PlainTextResponse:
    """Use no session."""
    return PlainTextResponse("ok")


async def begin(request: Request) -> PlainTextResponse:
    """Make a session of ten keys."""
    request.session.update(session_of(2000) | {"n": 0})
    return PlainTextResponse("ok")


async def read(request: Request) -> PlainTextResponse:
    """Read one key."""
    return PlainTextResponse(str(request.session["key1"]["n"]))


async def write(request: Request) -> PlainTextResponse:
    """Read one key and write it."""
    request.session["n"] = request.session["n"] + 1
    return PlainTextResponse("ok")


def app() -> ASGIApp:
    """Return the application behind the middleware that the environment names."""
    pages = (plain, begin, read, write)
    inner = Starlette(routes=[Route(f"/{page.__name__}", page) for page in pages])
    contender, url = os.environ[_CONTENDER], os.environ[_URL]
    if contender == "bare Starlette":
        return inner
    if contender == "holdfast":
        # A busy machine is slow, not away.
        settings = Settings(redis_url=url, secret_key=KEY, redis_timeout=10)
        return SessionMiddleware(inner, settings=settings)
    # As its pages show it, and with redis-py at its best.
    connection = tuned(url) if contender.endswith("tuned") else Redis.from_url(url)
    loading = SessionAutoloadMiddleware(inner)
    store = RedisStore(connection=connection)
    return Starsessions(loading, store=store, lifetime=3600, cookie_https_only=False)


# --- the visitors ---------------------------------------------------------------------------------


class Site:
    """One contender's server, and the cookie of one visitor.

    Args:
        server: it, running.
        contender: its name.
    """

    def __init__(self, server: ServerProcess, contender: str) -> None:
        self.url = server.url
        self._server = server
        self.cookie = ""
        if contender != "bare Starlette":
            answer = httpx.get(f"{self.url}/begin")
            self.cookie = answer.headers["set-cookie"].partition(";")[0]

    def measure(self, contest: Contest, connections: int, seconds: int) -> Measure:
        """Ask for the page of *contest* as fast as *connections* can."""
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
        if contest.cookie:
            command += ["-H", f"Cookie: {self.cookie}"]
        before = self._cpu()
        done = subprocess.run(
            [*command, self.url + contest.path], capture_output=True, text=True, check=True
        )
        used = self._cpu() - before
        told = re.search(r"(\d+) requests in ([\d.]+)s", done.stdout)
        assert told, done.stdout
        assert "Non-2xx" not in done.stdout, done.stdout
        requests, took = int(told[1]), float(told[2])
        return Measure(requests / took, used / requests * 1e6)

    def _cpu(self) -> float:
        """Seconds of CPU that the server has used."""
        return self._cpu_of(self._server.pid)

    @staticmethod
    def _cpu_of(pid: int) -> float:
        # proc(5): utime and stime.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(sites: dict[str, Site], contest: Contest, rounds: int, seconds: int) -> None:
    """Measure and report one contest."""
    print(f"\n{contest.title}")
    for connections in contest.connections:
        found = defaultdict[str, list[Measure]](list)
        for number in range(rounds + 1):
            for name in contest.contenders:
                measured = sites[name].measure(contest, connections, seconds)
                if number:  # the first round warms up
                    found[name].append(measured)
        for name in contest.contenders:
            per_second, cpu = (spread([each[n] for each in found[name]]) for n in range(2))
            print(f"  {name:30}{connections:3} {per_second:>32} requests/s{cpu:>26} CPU us")
        for name in contest.contenders[1:]:
            pairs = list(zip(found["holdfast"], found[name], strict=True))
            told = [ratio([mine[n] / theirs[n] for mine, theirs in pairs]) for n in range(2)]
            print(
                f"  against {name}, {connections} at once: x {told[0]} requests/s, x {told[1]} CPU"
            )


def main() -> None:
    """Measure on a Redis of our own."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: https://github.com/wg/wrk")
    command = ["-m", "uvicorn", f"{__spec__.name}:app", "--factory", "--host", "127.0.0.1"]
    command += ["--port", "{port}", "--log-level", "warning", "--no-access-log"]
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sites = {}
        for number, contender in enumerate(CONTENDERS):
            env = {_URL: redis.url, _CONTENDER: contender}
            server = ServerProcess(command, folder / str(number), env)
            stack.callback(server.close)
            server.start()
            sites[contender] = Site(server, contender)
        print("requests/s and CPU us of the server a request: median (least to most)")
        for contest in CONTESTS:
            run(sites, contest, rounds, seconds)


if __name__ == "__main__":
    main()
