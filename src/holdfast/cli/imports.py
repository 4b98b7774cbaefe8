"""`holdfast runs import`: runs that another system kept, as lines of JSON or CSV.

Reading lines is pure; writing a run is the store's. What is wrong is told with its line.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from holdfast.errors import InvalidEvent
from holdfast.streams.event import RESERVED_TYPES, TERMINAL_TYPES, check_owner, check_run_id
from holdfast.streams.stores.adoption import Dated

if TYPE_CHECKING:
    from holdfast.streams.store import EventStore

MAX_SECONDS = 100_000_000_000
"""A number of a time beyond this counts milliseconds."""


CLOCKS_DIFFER_MS = 60_000


class BadLine(InvalidEvent):
    """A line that is no event."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")


@dataclass(frozen=True, slots=True)
class Columns:
    """The names under which a line holds the parts of an event."""

    run: str = "run_id"
    type: str = "type"
    data: str = "data"
    time: str = "created_at"
    owner: str = "owner"


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """All events of one run, in the order of their lines."""

    run_id: str
    owner: str | None
    events: list[Dated]


Line = tuple[int, Mapping[str, Any]]


def json_lines(text: Iterable[str]) -> Iterator[Line]:
    """Read one JSON object from each line; empty lines are passed over."""
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadLine(number, f"no JSON: {error}") from None
        if not isinstance(value, dict):
            raise BadLine(number, "no JSON object")
        yield number, value


def csv_lines(text: Iterable[str], data: str) -> Iterator[Line]:
    """Read rows under a header; the column *data* is JSON, or text where it does not parse."""
    csv.field_size_limit(1 << 27)
    reader = csv.DictReader(text)
    for row in reader:
        value: dict[str, Any] = dict(row)
        if isinstance(value.get(data), str):
            with contextlib.suppress(ValueError, RecursionError):
                value[data] = json.loads(value[data])
        yield reader.line_num, value


def foreign_runs(
    lines: Iterable[Line], columns: Columns, store: EventStore, *, complete: bool
) -> Iterator[ForeignRun]:
    """Gather the lines of each run, which are together, and check them.

    Args:
        complete: end a run that has no end with ``workflow_complete``.

    Raises:
        BadLine: a line is no event, follows its run's end, or takes up a run again.
    """
    seen = set[str]()
    grouped = itertools.groupby(lines, key=lambda line: _text(line, columns.run))
    for run_id, group in grouped:
        first = next(group)
        with _telling(first[0]):
            check_run_id(run_id)
        if run_id in seen:
            raise BadLine(first[0], f"the run {run_id!r} is taken up again: sort by run, then time")
        seen.add(run_id)
        with _telling(first[0]):
            owner = check_owner(first[1].get(columns.owner) or None)
        yield ForeignRun(run_id, owner, _events([first, *group], columns, store, complete=complete))


def _events(
    lines: Sequence[Line], columns: Columns, store: EventStore, *, complete: bool
) -> list[Dated]:
    events = list[Dated]()
    for line in lines:
        number, value = line
        if events and events[-1].draft.type in TERMINAL_TYPES:
            raise BadLine(number, "an event follows the end of its run")
        with _telling(number):
            kind = _text(line, columns.type)
            ended = kind in RESERVED_TYPES  # by the other system, as ours would
            draft = store.draft(kind, value.get(columns.data), ours=ended)
        events.append(Dated(draft, _milliseconds(number, value.get(columns.time))))
    if complete and events[-1].draft.type not in TERMINAL_TYPES:
        ending = store.draft("workflow_complete", {"output": None})
        events.append(Dated(ending, events[-1].created_ms))
    return events


def _text(line: Line, column: str) -> str:
    value = line[1].get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a run's number in a table
    if not isinstance(value, str):
        raise BadLine(line[0], f"{column!r} is missing")
    return value


def _milliseconds(number: int, value: object) -> int:
    """Read a time: ISO 8601 (UTC where it names no zone), or seconds or milliseconds since 1970."""
    if value is None or value == "":
        return time.time_ns() // 1_000_000
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _moment(number, str(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise BadLine(number, f"{value!r} is no time")
    return _past(number, int(value) if value > MAX_SECONDS else round(value * 1000))


def _moment(number: int, text: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadLine(number, f"{text[:64]!r} is no time") from None
    return _past(number, round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))


def _past(number: int, ms: int) -> int:
    if not 0 <= ms <= time.time() * 1000 + CLOCKS_DIFFER_MS:
        raise BadLine(number, "the event is of the future, or from before 1970")
    return ms


@contextlib.contextmanager
def _telling(number: int) -> Iterator[None]:
    """Say in which line something is that no event can be."""
    try:
        yield
    except BadLine:
        raise
    except InvalidEvent as error:
        raise BadLine(number, str(error)) from None
