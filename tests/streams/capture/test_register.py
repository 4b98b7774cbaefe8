"""What the lines of a register add up to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.streams.capture.register import Register, add_up
from holdfast.streams.event import EventId
from holdfast.streams.store import Entry
from holdfast.streams.stores.memory import MemoryEventStore


def readers(*lines: tuple[str, str, str]) -> dict[str, list[str]]:
    entries = [line(at, *each) for at, each in enumerate(lines)]
    return {name: each.readers for name, each in add_up(entries).items()}


def line(at: int, kind: str, run: str, reader: str) -> Entry:
    data: dict[str, Any] = {"run": run, "reader": reader, "headers": []}
    return Entry(EventId(at, 0), kind, json.dumps(data).encode())


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], {}),
        ([("began", "a", "1")], {"a": ["1"]}),
        ([("began", "a", "1"), ("left", "a", "1")], {"a": []}),
        ([("began", "a", "1"), ("reads", "a", "2"), ("left", "a", "1")], {"a": ["2"]}),
        ([("began", "a", "1"), ("left", "a", "2")], {"a": ["1"]}),
        ([("began", "a", "1"), ("left", "a", "1"), ("left", "a", "1")], {"a": []}),
        ([("began", "a", "1"), ("began", "b", "2")], {"a": ["1"], "b": ["2"]}),
        ([("reads", "a", "1"), ("left", "a", "1")], {}),
    ],
)
def test_who_reads_what(lines: list[tuple[str, str, str]], found: dict[str, list[str]]) -> None:
    assert readers(*lines) == found


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("began", b"{}"),
        ("began", b"null"),
        ("began", b"[1]"),
        ("began", b"no json"),
        ("began", b'{"run": "a", "reader": "2"}'),
        ("began", b'{"run": "a", "reader": "2", "headers": 5}'),
        ("began", b'{"run": "a", "reader": "2", "headers": [["vary"]]}'),
        ("began", b'{"run": "a", "reader": "2", "headers": [[1, 2]]}'),
        ("began", '{"run": "a", "reader": "2", "headers": [["x", "\u20ac"]]}'.encode()),
        ("reads", b'{"run": ["a"], "reader": "2"}'),
        ("reads", b'{"run": "a", "reader": 2}'),
        ("began", b'{"run": 1, "reader": "2", "headers": []}'),
        ("left", b'{"run": "a"}'),
        ("message", b'{"run": "a", "reader": "1"}'),
    ],
    ids=str,
)
def test_what_is_no_line_of_ours_is_passed_over(kind: str, data: bytes) -> None:
    entries = [line(1, "began", "a", "1"), Entry(EventId(2, 0), kind, data)]
    assert {name: each.readers for name, each in add_up(entries).items()} == {"a": ["1"]}


@pytest.mark.anyio
async def test_headers_come_back_byte_for_byte() -> None:
    register = Register(MemoryEventStore(), "r")
    headers = [(b"vary", b"Origin"), (b"content-language", b"\xe9")]
    await register.began("a", "1", headers)
    assert (await register.look())["a"].headers == headers


@pytest.mark.anyio
async def test_a_register_is_read_page_by_page() -> None:
    register = Register(MemoryEventStore(), "r")
    await register.began("a", "0", [])
    for _ in range(600):
        await register.reads("a", "x")
    assert len((await register.look())["a"].readers) == 601
