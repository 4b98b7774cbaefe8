"""Django with our sessions, and with its own in its cache: one page, on the same Redis.

Run it as ``python -m tests.benchmarks.django [rounds] [requests]``. Django is configured once per
process, so that each contender has one of its own, which is called as a WSGI server calls it. They
take turns within a round, so that a slow moment of the machine falls on both alike, and ratios are
taken within a round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tests.benchmarks.flask import PAGES, Measure, report
from tests.benchmarks.sessions import KEY, session_of
from tests.frameworks.wsgi_client import answer_of, environ_of

from holdfast.testing import redis_server

if TYPE_CHECKING:
    from typing import Self
    from wsgiref.types import WSGIApplication

    from django.http import HttpRequest, HttpResponse

#: By contender, the engine of its sessions and their middleware.
CONTENDERS = {
    "holdfast": ("holdfast.django", "holdfast.django.SessionMiddleware"),
    "Django's cache sessions": (
        "django.contrib.sessions.backends.cache",
        "django.contrib.sessions.middleware.SessionMiddleware",
    ),
}


def django_site(contender: str, url: str) -> WSGIApplication:
    """Return the application of *contender*; it is this process's only one."""
    from django import setup
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    engine, middleware = CONTENDERS[contender]
    settings.configure(
        SECRET_KEY=KEY,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=[middleware],
        SESSION_ENGINE=engine,
        CACHES={
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": url,
            }
        },
    )
    setup()
    application: WSGIApplication = get_wsgi_application()
    return application


def begin(request: HttpRequest) -> HttpResponse:
    """Give the visitor the session that all pages read."""
    from django.http import HttpResponse

    request.session.update(session_of(2000) | {"n": 0})
    return HttpResponse("ok")


def read(request: HttpRequest) -> HttpResponse:
    """Look at one value."""
    from django.http import HttpResponse

    return HttpResponse(str(request.session["key1"]["n"]))


def write(request: HttpRequest) -> HttpResponse:
    """Count this visit."""
    from django.http import HttpResponse

    request.session["n"] += 1
    return HttpResponse("ok")


def plain(_request: HttpRequest) -> HttpResponse:
    """Do not look at the session."""
    from django.http import HttpResponse

    return HttpResponse("ok")


def __getattr__(name: str) -> Any:
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.urls import path

    return [path(each.__name__, each) for each in (begin, read, write, plain)]


class Process:
    """One contender in a process of its own, with the cookie of its one visitor."""

    def __init__(self, contender: str, url: str) -> None:
        environ = {
            **os.environ,
            "HOLDFAST_REDIS_URL": url,
            # A busy machine is slow, not away.
            "HOLDFAST_REDIS_TIMEOUT": "10",
        }
        command = [sys.executable, "-m", "tests.benchmarks.django", "--serve", contender, url]
        self._process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("", timeout=30)

    def measure(self, path: str, requests: int) -> Measure:
        """Ask for *path* so many times, one after the other."""
        asking, answering = self._process.stdin, self._process.stdout
        if asking is None or answering is None:
            raise RuntimeError("the contender has no ears")
        asking.write(f"{path} {requests}\n")
        asking.flush()
        line = answering.readline()
        if not line:
            raise RuntimeError("the contender is gone")
        return Measure(*json.loads(line))


def serve(contender: str, url: str) -> None:
    """Be *contender*: for each line ``path requests`` print the measure as JSON."""
    app = django_site(contender, url)
    cookie = str(answer_of(app, environ_of("/begin")).all("set-cookie")[0]).partition(";")[0]
    for line in sys.stdin:
        path, count = line.split()
        requests = int(count)
        environs: list[dict[str, Any]] = [environ_of(path, cookie) for _ in range(requests)]
        cpu, start = time.process_time(), time.perf_counter()
        for environ in environs:
            answer = answer_of(app, environ)
            if answer.code != 200:
                raise RuntimeError(f"{path} was answered {answer.status}")
        took, used = time.perf_counter() - start, time.process_time() - cpu
        print(json.dumps([requests / took, used / requests * 1e6]), flush=True)


def main() -> None:
    """Measure on a Redis of our own."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    requests = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        sites = {name: stack.enter_context(Process(name, redis.url)) for name in CONTENDERS}
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
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
