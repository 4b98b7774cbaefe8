"""`holdfast sessions` as a person runs it: real processes, a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.sessions.browser import Browser, app_of

from holdfast.runtime import aclose
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from holdfast.testing import RedisServer

KEY = "a key of more than sixteen characters"


@pytest.fixture
def settings(redis: RedisServer, key_prefix: str) -> Settings:
    return Settings(secret_key=KEY, redis_url=redis.url, key_prefix=key_prefix)


@pytest.fixture
def shell(redis: RedisServer, key_prefix: str, tmp_path: Path) -> Callable[..., object]:
    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        known = {"HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "holdfast", "sessions", *arguments],
            cwd=tmp_path,
            env=os.environ | known | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


async def login(settings: Settings, user: str, agent: bytes = b"Firefox") -> tuple[str, Browser]:
    seen: list[str] = []

    def handle(session: dict[str, object]) -> None:
        session["user_id"], session["hidden\x1b[2J"] = user, "a value that nobody prints"
        seen.append(session.id_hash)  # type: ignore[attr-defined]

    browser = Browser(SessionMiddleware(app_of(handle), settings=settings))
    await browser.get(headers=((b"user-agent", agent),))
    return seen[0], browser


@pytest.mark.anyio
async def test_sessions_are_listed_shown_and_ended_without_a_value(
    settings: Settings, shell: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    first, _ = await login(settings, "kim", b"Safari on a phone")
    second, _ = await login(settings, "kim", b"Firefox \x1b[2J")
    third, browser = await login(settings, "kim")
    await aclose()
    listed = shell("list", "kim")
    assert (listed.returncode, listed.stderr) == (0, "")
    head, *lines = listed.stdout.splitlines()
    assert head.split()[:4] == ["ID_HASH", "CREATED", "SEEN", "EXPIRES"]
    assert {line.split()[0] for line in lines} == {first, second, third}
    assert "Safari on a phone" in listed.stdout

    shown = shell("show", first)
    assert shown.returncode == 0
    assert "user_id" in shown.stdout
    assert "hidden?[2J" in shown.stdout
    assert shell("revoke", first).stdout == "ended\n"
    log = tmp_path / "audit"
    secret = {"HOLDFAST_SECRET_KEY": KEY, "HOLDFAST_SESSION_AUDIT_LOG": str(log)}
    assert shell("revoke-user", "kim", "--keep", third, **secret).stdout == "1 session ended\n"
    assert [json.loads(each)["reason"] for each in log.read_text().splitlines()] == ["revoked"]
    assert shell("revoke-user", "kim").stdout == "1 session ended\n"
    after = shell("list", "kim")
    assert (after.returncode, after.stdout) == (0, "")
    cookie = browser.cookies["session"]
    for run in (listed, shown, after):
        for hidden in ("a value", "\x1b", cookie, *cookie.split(".")):
            assert hidden not in run.stdout + run.stderr


def test_what_cannot_be_done_is_one_line_and_a_status(
    shell: Callable[..., subprocess.CompletedProcess[str]], free_port: int
) -> None:
    absent = "0" * 64
    for verb in ("show", "revoke"):
        done = shell(verb, absent)
        assert (done.returncode, done.stderr) == (1, "Error: there is no such session\n")
        assert shell(verb, "abc").returncode == 2
    away = shell("list", "kim", HOLDFAST_REDIS_URL=f"redis://127.0.0.1:{free_port}")
    assert away.returncode == 1
    assert "Redis is unavailable" in away.stderr
    memory = shell("list", "kim", HOLDFAST_REDIS_URL="off")
    assert memory.returncode == 2
    assert "HOLDFAST_REDIS_URL" in memory.stderr
    for done in (away, memory):
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
