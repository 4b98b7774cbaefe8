"""Flask with our sessions, with Flask-Session's, and with none: one page, in one process.

Run it as ``python -m tests.benchmarks.flask [rounds] [requests]``. The applications are called as
a WSGI server calls them, so that what is measured is Flask, its sessions and Redis, and no server;
the contenders follow each other within a round, so that a slow moment of the machine falls on all
alike, and ratios are taken within a round.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import flask
import flask_session
from flask import Flask
from redis import Redis
from tests.benchmarks.measures import ratio, spread
from tests.benchmarks.sessions import KEY, session_of
from tests.frameworks.wsgi_client import answer_of, environ_of

from holdfast.flask import FlaskSessionInterface
from holdfast.settings import Settings
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PAGES = {
    "/read": "a page that reads its session",
    "/write": "a page that reads and writes its session",
    "/plain": "a page that does not look at its session",
}


class Measure(NamedTuple):
    """One contender in one round."""

    per_second: float
    cpu_us: float


def flask_app() -> Flask:
    """Return the application of every contender, with Flask's own sessions."""
    app = Flask(__name__)
    app.secret_key = KEY

    @app.get("/begin")
    def begin() -> str:
        flask.session.update(session_of(2000) | {"n": 0})
        return "ok"

    @app.get("/read")
    def read() -> str:
        return str(flask.session["key1"]["n"])

    @app.get("/write")
    def write() -> str:
        flask.session["n"] = flask.session["n"] + 1
        return "ok"

    @app.get("/plain")
    def plain() -> str:
        return "ok"

    return app


def ours(url: str) -> Flask:
    """Return it with ours."""
    app = flask_app()
    # A busy machine is slow, not away.
    app.session_interface = FlaskSessionInterface(Settings(redis_url=url, redis_timeout=10))
    return app


def flask_sessions(url: str) -> Flask:
    """Return it with Flask-Session's, as its pages show it."""
    app = flask_app()
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(url))
    flask_session.Session(app)
    return app


def bare(_url: str) -> Flask:
    """Return it with Flask's own: the data is in the cookie, and no store is asked."""
    return flask_app()


CONTENDERS: dict[str, Callable[[str], Flask]] = {
    "holdfast": ours,
    "Flask-Session": flask_sessions,
    "Flask's own cookie": bare,
}


class Site:
    """One contender, and the cookie of its one visitor."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        answer = answer_of(app, environ_of("/begin"))
        self._cookie = str(answer.all("set-cookie")[0]).partition(";")[0]

    def measure(self, path: str, requests: int) -> Measure:
        """Ask for *path* so many times, one after the other."""
        environs: list[dict[str, Any]] = [environ_of(path, self._cookie) for _ in range(requests)]
        cpu, start = time.process_time(), time.perf_counter()
        for environ in environs:
            answer = answer_of(self._app, environ)
            if answer.code != 200:
                raise RuntimeError(f"{path} was answered {answer.status}")
        took, used = time.perf_counter() - start, time.process_time() - cpu
        return Measure(requests / took, used / requests * 1e6)


def report(title: str, found: Mapping[str, list[Measure]]) -> None:
    """Print what was measured of one page, by contender, the first against each of the others."""
    first, *others = found
    print(f"\n{title}")
    for name, measured in found.items():
        per_second, cpu = (spread([each[n] for each in measured]) for n in range(2))
        print(f"  {name:24}{per_second:>32} requests/s{cpu:>28} CPU us")
    for name in others:
        pairs = list(zip(found[first], found[name], strict=True))
        for what, ratios in (
            ("requests/s", [mine.per_second / theirs.per_second for mine, theirs in pairs]),
            ("CPU", [mine.cpu_us / theirs.cpu_us for mine, theirs in pairs]),
        ):
            print(f"  against {name}: x {ratio(ratios)} {what}")


def main() -> None:
    """Measure on a Redis of our own."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    requests = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    with redis_server() as redis:
        sites = {name: Site(make(redis.url)) for name, make in CONTENDERS.items()}
        print("requests/s and CPU us a request: median (least to most)")
        for path, title in PAGES.items():
            found = defaultdict[str, list[Measure]](list)
            for number in range(rounds + 1):
                for name, site in sites.items():
                    measured = site.measure(path, requests)
                    if number:  # the first round warms up
                        found[name].append(measured)
            report(title, found)


if __name__ == "__main__":
    main()
