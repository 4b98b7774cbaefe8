"""Adopting holdfast: what changes in the files of an application, and what in its behaviour."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest
from tests.frameworks.before_after import FILES, FRAMEWORKS, PAGE, changed, written

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

    from holdfast.testing import RedisServer

MAX_CHANGED_LINES = 3
GUNICORN = ["-m", "gunicorn", "--chdir", str(FILES), "--bind", "127.0.0.1:{port}"]
UVICORN = ["-m", "uvicorn", "--app-dir", str(FILES), "--port", "{port}"]
SERVE = ["-m", "holdfast", "serve", "flask_before:app", "--app-dir", str(FILES), "--port", "{port}"]


class Case(NamedTuple):
    """One way to serve the shop.

    Attributes:
        command: arguments of the interpreter.
        ours: whether sessions are in Redis.
        streams: whether they have to be there.
        outlives: whether a copy of the cookie is good after the logout.
    """

    command: list[str]
    ours: bool
    streams: bool
    outlives: bool


CASES = {
    "fastapi before": Case([*UVICORN, "fastapi_before:app"], False, False, True),
    "fastapi after": Case([*UVICORN, "fastapi_after:app"], True, True, False),
    "flask before": Case([*GUNICORN, "flask_before:app"], False, False, True),
    "flask after": Case([*GUNICORN, "flask_after:app"], True, False, False),
    "flask served": Case(SERVE, True, True, False),
    "django before": Case([*GUNICORN, "django_before:app"], False, False, False),
    "django after": Case([*GUNICORN, "django_after:app"], True, False, False),
}


def test_the_page_shows_the_files_as_they_are() -> None:
    assert FRAMEWORKS == ["django", "fastapi", "flask"]
    page = PAGE.read_text()
    assert all(f"<!-- changed: {name} -->" in page for name in FRAMEWORKS)
    assert page == written(page), "stale: python -m tests.frameworks.before_after"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_adopting_changes_three_lines_at_most(framework: str) -> None:
    lines = changed(framework)
    assert 0 < len(lines) <= MAX_CHANGED_LINES, lines


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_shop_behaves_as_before_and_keeps_its_sessions_on_the_server(
    name: str, serve: Serve, redis: RedisServer, key_prefix: str, tmp_path: Path
) -> None:
    framework, case = name.split(maxsplit=1)[0], CASES[name]
    pytest.importorskip(framework)
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_SECRET_KEY": "the key that the shops are given",
        # A busy machine is slow, not away.
        "HOLDFAST_REDIS_TIMEOUT": "10",
        "SITE_DATABASE": str(tmp_path / "shop.sqlite3"),
    }
    if name == "django before":
        migrate("django_before", env)
    server = serve(case.command, env=env)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.post("/cart/tea").json() == {"user": None, "cart": ["tea"]}
        assert client.post("/login/ada").json() == {"user": "ada", "cart": ["tea"]}
        assert client.post("/cart/milk").json() == {"user": "ada", "cart": ["tea", "milk"]}
        copy = dict(client.cookies)
        assert bool(keys_of(redis, key_prefix)) == case.ours
        assert client.post("/logout").json() == {"user": None, "cart": []}
        assert client.get("/").json() == {"user": None, "cart": []}
        assert not case.streams or client.get("/streams/livez").status_code == 200
    thief = httpx.get(server.url, cookies=copy, timeout=30).json()
    assert thief["user"] == ("ada" if case.outlives else None)


def migrate(module: str, env: dict[str, str]) -> None:
    source = f"import {module}, django.core.management as m; m.call_command('migrate', verbosity=0)"
    command = [sys.executable, "-c", source]
    subprocess.run(command, cwd=FILES, env=os.environ | env, check=True, timeout=120)


def keys_of(redis: RedisServer, prefix: str) -> list[bytes]:
    reply = redis.execute("KEYS", f"{prefix}session:*")
    assert isinstance(reply, list)
    return [key for key in reply if isinstance(key, bytes)]
