"""Flask over HTTP: a gunicorn for each contender of ``flask.py``, the same pages, and wrk.

Run it as ``python -m tests.benchmarks.flask_http [rounds] [seconds]``. One worker asked by one
visitor shows what a request takes where a processor is free; two workers and eight visitors, what a
machine can serve that has no processor to spare.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.flask import CONTENDERS, PAGES
from tests.benchmarks.sessions_http import Contest, Site, run
from tests.support.process import ServerProcess

from holdfast.testing import redis_server

if TYPE_CHECKING:
    from flask import Flask

NAMES = ("holdfast", "Flask-Session")
#: Workers, and how many visitors ask them at once.
CROWDS = ((1, 1), (2, 8))
_URL, _CONTENDER = "FLASK_HTTP_REDIS_URL", "FLASK_HTTP_CONTENDER"


def app() -> Flask:
    """Return the application of the contender that the environment names."""
    return CONTENDERS[os.environ[_CONTENDER]](os.environ[_URL])


class Workers(Site):
    """A gunicorn, whose workers are its children."""

    def _cpu(self) -> float:
        pid = self._server.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(map(self._cpu_of, (pid, *map(int, children))))


def measure(workers: int, visitors: int, rounds: int, seconds: int) -> None:
    """Measure and report all pages with so many workers, on a Redis of our own."""
    command = ["-m", "gunicorn", f"{__spec__.name}:app()", "--bind", "127.0.0.1:{port}"]
    command += ["--workers", str(workers), "--worker-class", "gthread", "--threads", "4"]
    command += ["--log-level", "error"]
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sites: dict[str, Site] = {}
        for number, contender in enumerate(NAMES):
            env = {_URL: redis.url, _CONTENDER: contender}
            server = ServerProcess(command, folder / str(number), env)
            stack.callback(server.close)
            server.start()
            sites[contender] = Workers(server, contender)
        for path, title in PAGES.items():
            contest = Contest(f"{title}; workers: {workers}", path, True, NAMES, (visitors,))
            run(sites, contest, rounds, seconds)


def main() -> None:
    """Measure with few and with many visitors."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: https://github.com/wg/wrk")
    print("requests/s and CPU us of the server a request: median (least to most)")
    for workers, visitors in CROWDS:
        measure(workers, visitors, rounds, seconds)


if __name__ == "__main__":
    main()
