"""The audit log: whole lines from several processes, no id in them, no request held up by them."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.sessions.browser import Browser, app_of
from tests.support.threads import no_threads

from holdfast.errors import ConfigurationError
from holdfast.runtime import aclose
from holdfast.sessions import audit
from holdfast.sessions.audit import AuditLog, line_of
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.events import SessionCreated, SessionDestroyed, SessionRefused
from holdfast.sessions.index import SessionIndex
from holdfast.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

KEY = "a key of more than sixteen characters"
_EARLIER: set[threading.Thread] = set()
ID = "0123456789abcdef" * 4


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _new_threads() -> set[threading.Thread]:
    return set(threading.enumerate()) - _EARLIER


def created(user: str | None = None) -> SessionCreated:
    return SessionCreated(id_hash=ID, user=user)


def test_a_line_says_when_what_and_of_which_session_and_nothing_else() -> None:
    event = SessionDestroyed(id_hash=ID, user="kim", reason="revoked", at=1_700_000_000.5)
    first, again = line_of(event, b"key"), line_of(event, b"key")
    found = json.loads(first)
    assert first == again
    assert first.endswith(b"\n")
    assert found.keys() == {"at", "event", "session", "reason"}
    assert (found["at"], found["event"]) == ("2023-11-14T22:13:20.500Z", "destroyed")
    assert len(found["session"]) == 32
    assert found["session"] not in ID
    assert json.loads(line_of(event, b"other"))["session"] != found["session"]
    assert "session" not in json.loads(
        line_of(SessionRefused(id_hash=None, reason="forged cookie"), b"key")
    )


@pytest.mark.anyio
async def test_a_session_can_be_followed_through_the_log_and_not_found_by_it(
    tmp_path: Path,
) -> None:
    _EARLIER.update(threading.enumerate())
    path = tmp_path / "sessions.jsonl"
    settings = Settings(secret_key=KEY, session_audit_log=str(path))
    seen: list[str] = []

    def handle(session: Any) -> None:
        session["user_id"] = "kim@example.com"
        seen.append(session.id_hash)

    browser = Browser(SessionMiddleware(app_of(handle), settings=settings))
    await browser.get()
    await SessionIndex(settings).revoke(seen[0])
    await aclose()
    with anyio.fail_after(15):
        while any(each.name == "holdfast-audit" and each.is_alive() for each in _new_threads()):
            await anyio.sleep(0.01)
    assert [each["event"] for each in lines(path)] == ["created", "destroyed"]
    assert len({each["session"] for each in lines(path)}) == 1
    text = path.read_text()
    for secret in (seen[0], "kim", *browser.cookies["session"].split(".")):
        assert secret not in text
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_log_goes_on_in_a_new_file_after_a_rotation(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    log = AuditLog(str(path), KEY)
    log.write(created())
    assert log.flush()
    path.rename(old)
    log.write(created())
    assert log.flush()
    assert len(lines(old)) == len(lines(path)) == 1
    old.write_text("")
    path.rename(old)
    path.touch()
    log.write(created())
    assert log.flush()
    assert len(lines(path)) == 1


def _write_many(path: str, count: int) -> None:
    log = AuditLog(path, KEY)
    for _ in range(count):
        log.write(created())
    if not log.flush():
        sys.exit(1)


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(str(path), 2000)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(lines(path)) == 6000


def test_a_forked_child_writes_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    program = f"""
import os, sys
from holdfast.sessions.audit import AuditLog
from holdfast.sessions.events import SessionCreated
log = AuditLog({str(path)!r}, "k")
log.write(SessionCreated(id_hash="parent"))
log.flush()
child = os.fork()
log.write(SessionCreated(id_hash="both"))
if not child:
    os._exit(0 if log.flush() else 1)
sys.exit(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == 0
    # The parent flushed nothing after the fork: its exit did.
    assert len(lines(path)) == 3


def test_standard_output_takes_lines_too() -> None:
    program = (
        "from holdfast.sessions.audit import AuditLog\n"
        "from holdfast.sessions.events import SessionCreated\n"
        "log = AuditLog('-', 'k')\n"
        "log.write(SessionCreated(id_hash='x'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, timeout=60
    )
    assert json.loads(done.stdout)["event"] == "created"


def test_what_cannot_be_written_is_told_once_until_it_works_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "absent" / "log"
    log = AuditLog(str(path), KEY)
    for _ in range(3):
        log.write(created())
        assert log.flush()
    assert caplog.text.count("HOLDFAST_SESSION_AUDIT_LOG cannot be written") == 1
    path.parent.mkdir()
    log.write(created())
    assert log.flush()
    assert len(lines(path)) == 1
    path.unlink()
    path.mkdir()
    log.write(created())
    assert log.flush()
    assert caplog.text.count("cannot be written") == 2


def test_a_line_that_finds_no_thread_is_written_with_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(str(tmp_path / "log"), KEY)
    with no_threads():
        log.write(created("kim"))
    assert "no thread" in caplog.text
    log.write(created("ada"))
    assert log.flush()
    assert len(lines(tmp_path / "log")) == 2


def test_a_disk_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "_MAX_WAITING", 100)
    monkeypatch.setattr(audit, "_LAST_WORD_SECONDS", 0.05)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # nobody reads it: opening it for writing does not return
    log = AuditLog(str(pipe), KEY)
    begun = time.monotonic()
    for _ in range(300):
        log.write(created())
    assert time.monotonic() - begun < 5
    assert caplog.text.count("too slow") == 1
    assert not log.flush()
    assert "waiting>" in repr(log)
    with pipe.open() as reader:
        assert json.loads(reader.readline())["event"] == "created"


def test_an_audit_log_needs_a_key_to_hide_ids_with(tmp_path: Path, redis: Any) -> None:
    settings = Settings(redis_url=redis.url, session_audit_log=str(tmp_path / "log"))
    with pytest.raises(ConfigurationError, match="HOLDFAST_SECRET_KEY"):
        SessionIndex(settings)
