"""`holdfast runs` as a person runs it: on a real Redis, at a real address, in a real terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from holdfast import Settings, StreamEvent, SyncRunPublisher, stream_token
from holdfast.cli import following
from holdfast.cli.live import LiveView, as_frame, as_line, make_view, printable
from holdfast.client import End, Failed, Gap, Reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Serve

    from holdfast.testing import RedisServer

APP = "tests.interop.client_page:app"
KEY = "a-key-of-sixteen-characters-or-more"


class Shell:
    """Runs the command line with one Redis configured."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self._folder = folder
        # pytest's workers have a width of their own, which would beat the terminal's.
        known = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        self._environ = known | environ

    def __call__(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            input=given,
            cwd=self._folder,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def ids(self, run: str, *types: str) -> list[str]:
        """Publish events of *types* and return their ids."""
        publisher = SyncRunPublisher(run, settings=Settings(environ=self._environ))
        return [publisher.emit(kind, {"n": n}).id for n, kind in enumerate(types, 1)]

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), cwd=self._folder, env=self._environ, text=True, **streams
        )

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-W", "error", "-m", "holdfast", "runs", *arguments]


@pytest.fixture
def shell(redis: RedisServer, key_prefix: str, tmp_path: Path) -> Shell:
    return Shell(tmp_path, HOLDFAST_REDIS_URL=redis.url, HOLDFAST_KEY_PREFIX=key_prefix)


def until(condition: Callable[[], object], told: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


# --- publish, show, expire ------------------------------------------------------------------------


def test_an_event_is_published_and_shown(shell: Shell) -> None:
    first = shell("publish", "r", "token", '{"text":"Hel"}')
    assert (first.returncode, first.stderr) == (0, "")
    assert re.fullmatch(r"\d+-\d+\n", first.stdout)
    assert shell("publish", "r", "token", "-", given='["from", "a pipe"]').returncode == 0
    end = shell("publish", "r", "workflow_complete").stdout.strip()
    shown = shell("show", "r", "--json")
    assert json.loads(shown.stdout) == {
        "run_id": "r",
        "status": "ended",
        "owner": None,
        "kept": 3,
        "written": 3,
        "first": first.stdout.strip(),
        "last": end,
        "end": "workflow_complete",
    }
    lines = dict(line.split(maxsplit=1) for line in shell("show", "r").stdout.splitlines())
    assert (lines["status"], lines["owner"], lines["last"]) == ("ended", "none", end)


def test_what_is_not_there_is_shown_as_absent(shell: Shell) -> None:
    done = shell("show", "nobody", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "absent"


@pytest.mark.slow
def test_the_runs_are_listed_and_nothing_else(
    shell: Shell, redis: RedisServer, key_prefix: str
) -> None:
    shell.ids("open *[?]", "token", "token")
    ended = shell.ids("ended", "token", "workflow_complete")[-1]
    foreign = ("*", "type", "t", "data", "1")
    redis.execute("XADD", f"{key_prefix}run:foreign:events", *foreign)
    redis.execute("XADD", f"{key_prefix}run:captures-{'A' * 22}:events", *foreign)
    redis.execute("SET", f"{key_prefix}run:none:else", "1")
    redis.execute("SET", f"{{{key_prefix}run:broken:events}}:meta", "1")
    redis.execute("XADD", f"else:{key_prefix}run:other:events", *foreign)

    listed = shell("list", "--json")
    assert listed.returncode == 0
    assert "broken" in listed.stderr
    runs = {line["run_id"]: line for line in map(json.loads, listed.stdout.splitlines())}
    assert {run: (line["status"], line["kept"]) for run, line in runs.items()} == {
        "open *[?]": ("open", 2),
        "ended": ("ended", 2),
        "foreign": ("open", 1),
    }
    assert runs["ended"] == {
        "run_id": "ended",
        "status": "ended",
        "kept": 2,
        "last": ended,
        "owner": None,
    }

    head, line = shell("list", "--status", "ended").stdout.splitlines()
    assert head.split() == ["status", "kept", "last", "owner", "run"]
    assert line.split() == ["ended", "2", ended, "-", "ended"]
    assert len(shell("list", "--limit", "1", "--json").stdout.splitlines()) == 1
    shell("expire", "ended", "0")
    assert shell("list", "--status", "expired").stdout.splitlines()[1].split()[0] == "expired"


def test_nothing_follows_the_end(shell: Shell) -> None:
    shell.ids("r", "workflow_complete")
    done = shell("publish", "r", "token")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ended" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", "r", "token", "plain text"),
        ("publish", "r", "holdfast.mine", "1"),
        ("publish", "{r}", "token", "1"),
        ("show", ".."),
        ("tail",),
        ("tail", "r", "--after", "yesterday"),
        ("tail", "r", "s", "--after", "1-1"),
        ("tail", "r", ".."),
        ("tail", "r", "http://localhost/events/stream"),
        ("tail", *map(str, range(101))),
        ("expire", "r", "-1"),
        ("list", "--status", "absent"),
    ],
)
def test_a_call_that_cannot_work_is_a_usage_error(shell: Shell, arguments: tuple[str, ...]) -> None:
    done = shell(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: holdfast runs" in done.stderr


@pytest.mark.slow
def test_events_expire_when_they_are_told_to(
    shell: Shell, redis: RedisServer, key_prefix: str
) -> None:
    shell.ids("r", "token", "workflow_complete")
    assert shell("expire", "r", "1000").returncode == 0
    assert redis.execute("TTL", f"{key_prefix}run:r:events") in range(900, 1001)
    assert shell("expire", "r", "0").returncode == 0
    gone = shell("tail", "r")
    assert gone.returncode == 1
    assert "no longer kept" in gone.stderr
    again = shell("expire", "r", "10")
    assert again.returncode == 1
    assert "no events" in again.stderr


def test_without_redis_it_says_what_to_set(tmp_path: Path) -> None:
    for command in (["show", "r"], ["tail", "r"], ["publish", "r", "t"], ["expire", "r", "1"]):
        done = Shell(tmp_path)(*command)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("holdfast: HOLDFAST_REDIS_URL is not set")


def test_a_redis_that_is_away_is_told_in_a_line(free_port: int, tmp_path: Path) -> None:
    done = Shell(tmp_path, HOLDFAST_REDIS_URL=f"redis://127.0.0.1:{free_port}")("show", "r")
    assert done.returncode == 1
    assert "Error: Redis is unavailable: refused" in done.stderr
    assert "Traceback" not in done.stderr


# --- tail -----------------------------------------------------------------------------------------


def test_a_run_is_followed_from_its_start_to_its_end(shell: Shell) -> None:
    shell.ids("r", "a", "b")
    with shell.start("tail", "r", "--json", stdout=subprocess.PIPE) as tailing:
        assert tailing.stdout is not None
        begun = [json.loads(tailing.stdout.readline()) for _ in range(2)]
        shell.ids("r", "c", "workflow_complete")
        frames = begun + [json.loads(line) for line in tailing.stdout]
        assert tailing.wait(20) == 0
    kinds = [frame.get("type", frame["kind"]) for frame in frames]
    assert kinds == ["a", "b", "c", "workflow_complete", "end"]
    assert frames[0]["data"] == {"n": 1}


def test_a_run_may_be_waited_for_before_it_is_started(shell: Shell) -> None:
    pipe = subprocess.PIPE
    with shell.start("tail", "r", stdout=pipe, stderr=pipe) as tailing:
        assert tailing.stderr is not None
        told = tailing.stderr.readline()
        shell.ids("r", "a", "workflow_error")
        out, _ = tailing.communicate(timeout=20)
    assert told == "holdfast: nobody has begun the run 'r'; waiting for it\n"
    assert tailing.returncode == 1, "it ended, but did not complete"
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3}  \d+-\d+  a  \{\"n\":1\}$", out, re.MULTILINE)
    assert out.endswith("-- end\n")


def test_a_reader_begins_where_it_says(shell: Shell) -> None:
    ids = shell.ids("r", "a", "b", "workflow_complete")
    after = shell("tail", "r", "--after", ids[0])
    assert [line.split()[1] for line in after.stdout.splitlines()[:-1]] == ids[1:]
    assert shell("tail", "r", "--after", ids[-1]).stdout == "-- end\n"
    assert shell("tail", "r", "--after", "$").stdout == "-- end\n"


def test_a_position_of_another_life_is_told(shell: Shell) -> None:
    shell.ids("r", "workflow_complete")
    done = shell("tail", "r", "--after", "1-1")
    assert done.returncode == 0
    assert "-- reset" in done.stdout or "-- gap" in done.stdout


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    reason="a shell has SIGINT ignored by what it runs in the background, and so by this",
)
def test_interrupted_it_leaves_without_a_word(shell: Shell) -> None:
    shell.ids("r", "a")
    with shell.start("tail", "r", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tailing:
        assert tailing.stdout is not None
        tailing.stdout.readline()
        tailing.send_signal(signal.SIGINT)
        try:
            _, told = tailing.communicate(timeout=20)
        finally:
            tailing.kill()
    assert (tailing.returncode, told) == (130, "")


def test_a_stream_is_followed_at_its_address_with_a_token(serve: Serve, tmp_path: Path) -> None:
    server = serve(APP, env={"HOLDFAST_SECRET_KEY": KEY})
    httpx.post(f"{server.url}/emit/r?count=3&end=1")
    address = f"{server.url}/streams/runs/r/events/stream"
    token = stream_token("r", settings=Settings(secret_key=KEY))
    shell = Shell(tmp_path)
    for arguments, given in ((["--token", token], ""), (["--token", "-"], f"{token}\n")):
        done = shell("tail", address, *arguments, given=given)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 5
    refused = shell("tail", address)
    assert refused.returncode == 1
    assert "UNAUTHORIZED" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ftp://app.example/events/stream"], "protocol"),
        (["http://[::/events/stream"], "Invalid"),
        (["http://app.example/events/stream", "--token", "a\nb"], "the token is one line"),
        (["http://app.example/events/stream", "--after", "é"], "last_id is one line"),
    ],
)
def test_what_cannot_be_asked_for_is_a_wrong_call(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    done = Shell(tmp_path)("tail", *arguments)
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert last.startswith("Error: ")
    assert told in last
    assert "trying again" not in done.stderr


def test_an_address_where_nobody_answers_is_told(free_port: int, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port}/streams/runs/r/events/stream?token=secret"
    with Shell(tmp_path).start("tail", address, stderr=subprocess.PIPE) as tailing:
        assert tailing.stderr is not None
        told = tailing.stderr.readline()
        tailing.kill()
    assert re.fullmatch(rf"holdfast: http://127.0.0.1:{free_port}: .+; trying again\n", told)


def test_a_server_that_fails_is_told_once_for_each_reason() -> None:
    told: list[str] = []
    answers = iter([502, 502, 503, 200, 502])

    async def ask() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(next(answers)))
        async with following.TellingClient(told.append, transport=transport) as client:
            for _ in range(5):
                await client.get("http://app.example/events/stream?token=secret")

    asyncio.run(ask())
    assert told == [f"http://app.example: answered {n}; trying again" for n in (502, 503, 502)]


def test_several_runs_are_followed_to_the_last_end(shell: Shell) -> None:
    shell.ids("a", "t")
    shell.ids("b", "t", "workflow_complete")
    with shell.start("tail", "a", "b", "--json", stdout=subprocess.PIPE) as tailing:
        assert tailing.stdout is not None
        frames = [json.loads(tailing.stdout.readline()) for _ in range(4)]
        shell.ids("a", "workflow_complete")
        frames += [json.loads(line) for line in tailing.stdout]
        assert tailing.wait(20) == 0
    for run in "ab":
        kinds = [f.get("type", f["kind"]) for f in frames if f["run_id"] == run]
        assert kinds == ["t", "workflow_complete", "end"]
    lines = shell("tail", "a", "b", "--after", "$").stdout.splitlines()
    assert sorted(lines) == ["a  -- end", "b  -- end"]


def test_one_of_several_runs_that_cannot_be_read_is_told(shell: Shell) -> None:
    shell.ids("a", "t", "workflow_complete")
    shell.ids("b", "workflow_complete")
    shell("expire", "b", "0")
    done = shell("tail", "a", "b")
    assert done.returncode == 1
    assert "b  -- cannot be read: RUN_EXPIRED\n" in done.stdout
    assert re.search(r"^a  \d\d:\d\d.* workflow_complete ", done.stdout, re.MULTILINE)


def test_several_runs_are_followed_at_one_address(serve: Serve, tmp_path: Path) -> None:
    server = serve(APP, env={"HOLDFAST_STREAM_ACCESS": "open"})
    for run in "ab":
        httpx.post(f"{server.url}/emit/{run}?count=1&end=1")
    done = Shell(tmp_path)("tail", f"{server.url}/streams/events/stream?run=a&run=b")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["a"] * 3 + ["b"] * 3


# --- the terminal ---------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal of 60 columns: the side of the person, and that of the program."""
    person, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    os.set_blocking(person, False)
    yield person, program
    os.close(person)


@pytest.mark.slow
def test_in_a_terminal_a_line_lives_under_the_events(
    shell: Shell, terminal: tuple[int, int]
) -> None:
    person, program = terminal
    shown = ""

    def read() -> str:
        nonlocal shown
        with contextlib.suppress(OSError):
            shown += os.read(person, 65536).decode()
        return shown

    shell.ids("r", "a")
    with shell.start("tail", "r", stdout=program, stderr=program, stdin=program) as tailing:
        os.close(program)
        until(lambda: " live  1 events" in read(), read)
        until(lambda: re.search(r"the last [1-9] s ago", read()), read)
        shell("publish", "r", "long", json.dumps("x" * 500))
        shell("publish", "r", "workflow_complete")
        until(lambda: " ended  3 events" in read(), read)
        assert tailing.wait(20) == 0
    lines = [re.sub(r"\x1b\[[0-9;]*[mK]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert [line for line in lines if len(line) > 60] == [], "what wraps cannot be redrawn"
    assert any(line.endswith("…") for line in lines)
    assert "\x1b[32m" in shown, "the end is green"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def event(kind: str = "t", data: Any = None) -> StreamEvent:
    at = datetime(2026, 1, 31, 9, 30, 0, 125000, tzinfo=UTC)
    return StreamEvent("1769851800125-0", "r", kind, data, at)


def test_the_living_line_counts_what_comes_and_how_fast() -> None:
    clock, out = Clock(), io.StringIO()
    view = LiveView("r", out, clock)
    assert view.status == " waiting  0 events, 0.0/s  r "
    for _ in range(10):
        view.show(event())
    clock.now += 2
    assert view.status == " live  10 events, 2.0/s, the last 2 s ago  r "
    clock.now += 60
    assert view.status == " live  10 events, 0.0/s, the last 62 s ago  r "
    view.show(event("workflow_complete"))
    assert view.completed
    view.show(Reset("r", "1-0", None))
    assert not view.completed
    view.show(event("workflow_error"))
    view.show(End("r"))
    view.close()
    assert view.status.startswith(" ended  12 events")
    assert out.getvalue().endswith("\n")


def test_what_is_not_a_terminal_gets_lines_and_json_where_asked() -> None:
    out = io.StringIO()
    for as_json in (False, True):
        view = make_view(["r"], out, as_json=as_json)
        view.show(event(data={"x": "y"}))
        view.close()
    line, frame = out.getvalue().splitlines()
    assert line.endswith('.125  1769851800125-0  t  {"x":"y"}')
    assert json.loads(frame)["created_at"] == "2026-01-31T09:30:00.125Z"


def test_in_a_terminal_trouble_is_a_line_above_the_one_that_lives() -> None:
    out = io.StringIO()
    view = LiveView("r", out)
    view.tell("it is\x1b away")
    above, _, living = out.getvalue().rpartition("\n")
    assert r"it is\u001b away" in above
    assert "waiting  0 events" in living


@pytest.mark.parametrize("item", [Gap("r", "1-0", "9-0"), Reset("r", None, "9-0"), End("r")])
def test_what_is_no_event_is_spelled_too(item: Any) -> None:
    kind = type(item).__name__.lower()
    assert as_line(item).startswith(f"-- {kind}")
    assert json.loads(as_frame(item))["kind"] == kind


def test_a_run_that_cannot_be_read_is_spelled_too() -> None:
    item = Failed("r", "FORBIDDEN")
    assert as_line(item) == "-- cannot be read: FORBIDDEN"
    assert json.loads(as_frame(item)) == {"kind": "error", "run_id": "r", "code": "FORBIDDEN"}


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x9b31m", "\u202egpj.exe", "\x7f", "a\r\nb"])
def test_nothing_that_a_terminal_obeys_is_printed(evil: str) -> None:
    for text in (printable(evil), as_line(event(data=evil)), as_frame(event(data={evil: evil}))):
        assert text.isprintable()
    assert json.loads(as_frame(event(data=evil)))["data"] == evil


def test_letters_of_double_width_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    LiveView("r", out).show(event(data="海" * 40))
    shown = re.sub(r"\x1b\[[0-9;]*[mK]", "", out.getvalue()).split("\r")[1]
    assert 2 * shown.count("海") + len(shown.replace("海", "")) <= 40
