"""`holdfast chaos`: what it says of what was seen, and that it sees what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.cli.sightings import Answer, Sightings, table, verdicts

if TYPE_CHECKING:
    from pathlib import Path


def visit(at: float, status: int = 200, user: str | None = "ada", **more: Any) -> Answer:
    return Answer(at, "ada", more.pop("kind", "visit"), status, more.pop("seconds", 0.01), user)


def sightings(*answers: Answer, **more: Any) -> Sightings:
    seen = Sightings("killed", begun=1.0, ended=3.0, back=4.5, answers=[visit(0.5), *answers])
    seen.numbers = [(0.5, 1), (2.0, 2), (4.0, 3)]
    for name, value in more.items():
        setattr(seen, name, value)
    return seen


def broken(seen: Sightings) -> list[str]:
    return [verdict.text for verdict in verdicts(seen) if not verdict.kept]


LAST = visit(6.0, kind="last visit")
OUT = Answer(2.0, "leaver", "logout", 204, 0.01)
BROKEN = {
    "Logged out without having asked for it: ada.": sightings(
        visit(6.0, user=None, kind="last visit")
    ),
    "Logged out without having asked for it: ada. Meanwhile.": sightings(
        visit(2.0, user=None), LAST
    ),
    "1 requests failed.": sightings(visit(2.0, 500, None), LAST),
    "1 requests failed. No answer.": sightings(visit(2.0, 0, None), LAST),
    "is logged in again with the old cookie.": sightings(
        LAST, OUT, Answer(6.0, "leaver", "old cookie", 200, 0.01, "leaver")
    ),
    "out of order: 3 after 1.": sightings(LAST, numbers=[(0.5, 1), (2.0, 3)]),
    "out of order: 2 after 2.": sightings(LAST, numbers=[(0.5, 1), (1.0, 2), (2.0, 2)]),
    "The reader of the run got no event.": sightings(LAST, numbers=[]),
    "Redis was well again, and was not noticed.": sightings(LAST, back=None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_told(name: str) -> None:
    (text,) = broken(BROKEN[name])
    words, _, _ = name.partition(". ")
    assert words in text


def test_what_is_refused_hidden_or_told_breaks_no_promise() -> None:
    hidden = Answer(2.0, "ada", "visit", 200, 0.01, None, available=False)
    gone = Answer(6.0, "leaver", "old cookie", 200, 0.01, None)
    seen = sightings(visit(2.0, 503, None), hidden, LAST, OUT, gone)
    assert broken(seen) == []
    assert broken(sightings(LAST, numbers=[(0.5, 1), (2.0, 3)], told=["gap"])) == []
    later = Answer(2.0, "leaver", "logout", 503, 0.01)
    still = Answer(6.0, "leaver", "old cookie", 200, 0.01, "leaver")
    assert broken(sightings(LAST, later, still)) == []


def test_the_table_has_a_line_for_each_second() -> None:
    seen = sightings(visit(2.2, 503, None), visit(2.3, 500, None), visit(2.4, seconds=0.25), LAST)
    seen.states = [(0.9, "up"), (2.5, "down"), (6.0, "up")]
    _, *lines = table(seen)
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3", "4", "5", "6"]
    assert lines[2].split() == ["2", "away", "down", "3", "1", "1", "1", "250", "ms", "1"]
    assert lines[0].split()[:3] == ["0", "well", "up"]


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "holdfast", "chaos", *arguments]
    env = {**os.environ, **variables}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120
    )


def test_without_a_redis_server_it_says_what_to_install(tmp_path: Path) -> None:
    done = run(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "redis-server is not installed" in done.stderr


@pytest.mark.slow
def test_the_demo_goes_through_an_outage_with_every_promise_kept(tmp_path: Path) -> None:
    # What is configured is not what is broken.
    done = run(
        tmp_path, "--seconds", "1", "--visitors", "3", HOLDFAST_REDIS_URL="redis://127.0.0.1:1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Redis was killed, for " in done.stdout
    assert "BROKEN" not in done.stdout
    assert "All 3 visitors are still logged in." in done.stdout
    assert re.search(r"^ +\d+  away +down", done.stdout, re.MULTILINE)
