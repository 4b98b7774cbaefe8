"""Django over our engine: its cases on both stores, and the example site over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

pytest.importorskip("django")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "django_site.py"
KEY = "a key that the example is given"


def said_by(*command: str, **environment: str) -> str:
    """Run Python in a process of its own, and return what it said."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("where", ["memory", "redis"])
def test_what_is_promised_beyond_djangos_own_tests(
    where: str, redis: RedisServer, key_prefix: str
) -> None:
    environment = {"HOLDFAST_KEY_PREFIX": key_prefix}
    if where == "redis":
        environment["HOLDFAST_REDIS_URL"] = redis.url
    said = said_by("-m", "tests.frameworks.django_cases", **environment)
    assert re.search(r"Ran [5-9]\d tests", said), said


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example's database, with its user."""
    file = str(tmp_path_factory.mktemp("site") / "site.sqlite3")
    said_by("-c", "from examples.django_site import prepare; prepare()", SITE_DATABASE=file)
    return file


@pytest.fixture
def site_env(key_prefix: str, database: str) -> dict[str, str]:
    site = {"SITE_SECRET_KEY": KEY, "SITE_DATABASE": database}
    return {"HOLDFAST_KEY_PREFIX": key_prefix, **site}


def gunicorn(serve: Serve, env: dict[str, str], *options: str) -> ServerProcess:
    pytest.importorskip("gunicorn")
    where = ["--chdir", str(EXAMPLE.parent), "--bind", "127.0.0.1:{port}"]
    command = ["-m", "gunicorn", *where, *options, "django_site:application"]
    return serve(command, env=env)


class Visitor:
    """A browser on the example site."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=30)
        self.token = ""

    def post(self, path: str, **form: str) -> httpx.Response:
        """Post as the page's own form does."""
        if found := re.search(r'csrfmiddlewaretoken" value="(\w+)"', self.http.get("/").text):
            self.token = found[1]
        return self.http.post(path, data={"csrfmiddlewaretoken": self.token, **form})

    def log_in(self) -> httpx.Response:
        return self.post("/login", username="ada", password="lovelace")

    def whoami(self) -> object:
        return self.http.get("/whoami").json()


@pytest.fixture
def visitors() -> Iterator[list[Visitor]]:
    made: list[Visitor] = []
    yield made
    for visitor in made:
        visitor.http.close()


@pytest.mark.slow
def test_the_example_logs_in_and_out_on_every_worker(
    serve: Serve, redis: RedisServer, site_env: dict[str, str], visitors: list[Visitor]
) -> None:
    options = ("--preload", "--workers", "3", "--threads", "2")
    server = gunicorn(serve, {**site_env, "HOLDFAST_REDIS_URL": redis.url}, *options)
    ada, thief = Visitor(server.url), Visitor(server.url)
    visitors += [ada, thief]
    assert ada.post("/cart").json() == {"user": None, "cart": 1}
    thief.http.cookies.set("sessionid", ada.http.cookies["sessionid"])
    assert ada.log_in().json() == {"user": "ada", "cart": 1}
    for _ in range(12):
        assert httpx.get(f"{server.url}/whoami", cookies=dict(ada.http.cookies)).json() == {
            "user": "ada",
            "cart": 1,
        }
    assert thief.whoami() == {"user": None, "cart": 0}
    server.stop()
    server.start()
    assert ada.whoami() == {"user": "ada", "cart": 1}
    copy = Visitor(server.url)
    visitors.append(copy)
    copy.http.cookies.set("sessionid", ada.http.cookies["sessionid"])
    assert copy.whoami() == {"user": "ada", "cart": 1}
    assert ada.post("/logout").json() == {"user": None, "cart": 0}
    assert copy.whoami() == {"user": None, "cart": 0}


@pytest.fixture
def kept_redis() -> Iterator[RedisServer]:
    """A Redis that has after a kill what it had before."""
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["local", "closed"])
def test_while_redis_is_away_nobody_is_logged_out(
    mode: str,
    serve: Serve,
    kept_redis: RedisServer,
    site_env: dict[str, str],
    visitors: list[Visitor],
) -> None:
    env = {**site_env, "HOLDFAST_REDIS_URL": kept_redis.url, "HOLDFAST_SESSION_ON_OUTAGE": mode}
    server = gunicorn(serve, env, "--workers", "1", "--threads", "4")
    ada = Visitor(server.url)
    visitors.append(ada)
    ada.log_in()
    assert ada.whoami() == {"user": "ada", "cart": 0}
    cookie = ada.http.cookies["sessionid"]
    kept_redis.kill()
    answer = ada.http.get("/whoami")
    if mode == "local":
        assert answer.json() == {"user": "ada", "cart": 0}
    else:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["cache-control"] == "no-store"
    assert ada.http.cookies["sessionid"] == cookie
    assert "set-cookie" not in answer.headers
    kept_redis.start()
    deadline = time.monotonic() + 20
    while answer.status_code != 200 and time.monotonic() < deadline:
        answer = ada.http.get("/whoami")
    assert answer.json() == {"user": "ada", "cart": 0}


def test_the_example_checks_itself_and_serves_without_redis(
    serve: Serve, site_env: dict[str, str], visitors: list[Visitor]
) -> None:
    assert "no issues" in said_by(str(EXAMPLE), "check", **site_env)
    server = serve([str(EXAMPLE)], env=site_env)
    visitor = Visitor(server.url)
    visitors.append(visitor)
    assert visitor.log_in().json() == {"user": "ada", "cart": 0}
    assert visitor.post("/cart").json() == {"user": "ada", "cart": 1}
    assert visitor.post("/login", username="ada").status_code == 401
