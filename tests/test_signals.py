"""What the process says of itself harms nobody, whoever hears it."""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import holdfast
from holdfast import signals
from holdfast.errors import JournalFull, RedisUnavailable, RunExpired, SessionUnavailable
from holdfast.signals import Operation, Reading, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Heard:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.counts: list[tuple[str, tuple[str, ...], float]] = []
        self.operations: list[Operation] = []

    def count(self, what: str, labels: tuple[str, ...], by: float) -> None:
        self.counts.append((what, labels, by))

    def begin(self, operation: Operation) -> Callable[[], None] | None:
        return lambda: self.operations.append(operation)


class Broken:
    """Fails at whatever it is told."""

    def count(self, what: str, labels: tuple[str, ...], by: float) -> None:
        raise LookupError("the disk is full")

    def begin(self, operation: Operation) -> Callable[[], None] | None:
        if operation.name == "ends":
            return self._end
        raise LookupError("the disk is full")

    def _end(self) -> None:
        raise LookupError("the disk is full")


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Two who hear: one that fails, and one that remembers."""
    heard = Heard()
    ends = [signals.observe(Broken()), signals.observe(heard)]
    yield heard
    for end in ends:
        end()


def test_who_fails_at_hearing_harms_nobody(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    signals.count("things", "red", by=2)
    for name in ("begins", "ends"):
        with Operation(name):
            pass
    assert heard.counts == [("things", ("red",), 2)]
    assert [operation.name for operation in heard.operations] == ["begins", "ends"]
    failed = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failed) == 3


def test_an_operation_is_told_with_its_error_and_its_time(heard: Heard) -> None:
    with pytest.raises(RedisUnavailable), Operation("reading", run_id="r"):
        raise RedisUnavailable("refused")
    (operation,) = heard.operations
    assert operation.outcome == "unavailable"
    assert isinstance(operation.error, RedisUnavailable)
    assert operation.seconds > 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (SessionUnavailable(), "unavailable"),
        (JournalFull(), "journal_full"),
        (RunExpired(), "ended"),
        (asyncio.CancelledError(), "cancelled"),
        (ValueError(), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_comes_to_one_word(error: BaseException, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_nobody_hears_unless_asked() -> None:
    assert signals.observers == ()
    signals.count("nothing")


def test_what_is_gone_is_read_no_more() -> None:
    class Thing:
        def readings(self) -> Iterator[Reading]:
            yield Reading("things", 1)

    thing = Thing()
    signals.readable(thing)
    assert thing in signals.everything()
    del thing
    gc.collect()
    assert not any(type(each).__name__ == "Thing" for each in signals.everything())


def words_said() -> set[tuple[str, int]]:
    """Every word that the code says, with how many labels."""
    said: set[tuple[str, int]] = set()
    for path in Path(holdfast.__file__).parent.rglob("*.py"):
        text = path.read_text()
        if "signals" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args:
                name = ast.unparse(node.func)
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    if name == "signals.count":
                        said.add((first.value, len(node.args) - 1))
                    elif name == "Reading":
                        rest = node.args[2:]
                        assert all(isinstance(each, ast.Tuple) for each in rest)
                        said.add((first.value, len(getattr(rest[0], "elts", ())) if rest else 0))
    return said


def test_every_word_that_is_said_is_a_metric() -> None:
    from holdfast.metrics.table import BY_WORD

    said = words_said()
    assert len(said) >= 20
    for word, labels in said:
        assert len(BY_WORD[word].labels) == labels, word
    # The other way: what the table has is said, or is a duration or an event of a session.
    unsaid = set(BY_WORD) - {word for word, _ in said}
    assert unsaid == {"info", "session_events", "session_load", "session_save", "stream_publish"}
