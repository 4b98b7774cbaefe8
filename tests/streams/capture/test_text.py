"""From the text of an event stream to stored events and back: what a page reads stays the same."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

import pytest

from holdfast.errors import EventTooLarge
from holdfast.streams.capture.text import spell, to_draft, to_event
from holdfast.streams.event import EventId
from holdfast.streams.event_text import Event, EventText
from holdfast.streams.store import Entry

if TYPE_CHECKING:
    from holdfast.streams.event_text import Passing


def read(*chunks: str | bytes) -> list[Passing]:
    text = EventText()
    found: list[Passing] = []
    for chunk in chunks:
        found += text.feed(chunk.encode() if isinstance(chunk, str) else chunk)
    return found


def stored(event: Event) -> Event:
    draft = to_draft(event, 1_000_000)
    return to_event(Entry(EventId(1, 0), draft.type, draft.data))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data: a\n\n", [Event("message", "a")]),
        ("data:a\n\n", [Event("message", "a")]),
        ("data:  a\n\n", [Event("message", " a")]),
        ("data\n\n", [Event("message", "")]),
        ("data: a\ndata:\ndata: b\n\n", [Event("message", "a\n\nb")]),
        ("event: x\ndata: a\n\n", [Event("x", "a")]),
        ("event: x\n\ndata: a\n\n", ["event: x\n\n", Event("message", "a")]),
        ("event:\ndata: a\n\n", [Event("message", "a")]),
        ("id: 1\ndata: a\n\ndata: b\n\n", [Event("message", "a", "1"), Event("message", "b")]),
        ("id: 1\n\ndata: a\n\n", [Event("message", "a", "1")]),
        ("id\ndata: a\n\n", [Event("message", "a", "")]),
        ("id: \0\ndata: a\n\n", [Event("message", "a")]),
        ("retry: 10\ndata: a\n\n", [Event("message", "a", None, 10)]),
        ("retry: 10\n\ndata: a\n\n", ["retry: 10\n\n", Event("message", "a", None, 10)]),
        ("retry: x\ndata: a\n\n", [Event("message", "a")]),
        (": c\n\n", [": c\n"]),
        (": c\ndata: a\n:d\n\n", [": c\n:d\n", Event("message", "a")]),
        (": c\nevent: x\nretry: 1\n\n", [": c\n", "event: x\nretry: 1\n\n"]),
        ("other: c\ndata: a\n\n", [Event("message", "a")]),
        ("\ufeffdata: a\n\n", [Event("message", "a")]),
        ("data: a\r\rdata: b\r\r", [Event("message", "a"), Event("message", "b")]),
        ("data: a\r\n\r\n", [Event("message", "a")]),
        ("data: a\u2028\x85\x0bb\n\n", [Event("message", "a\u2028\x85\x0bb")]),
        ("data: a\n", []),
        ("\n\n\n", []),
    ],
)
def test_a_stream_is_read_as_a_browser_reads_it(text: str, found: list[Passing]) -> None:
    assert read(text) == found
    pieces = text.encode()
    assert read(*(pieces[at : at + 1] for at in range(len(pieces)))) == found


def test_a_line_feed_that_comes_late_is_no_second_line_break() -> None:
    assert read("data: a\r", "\n\r", "\n", "data: b\r\n", "\r\n") == [
        Event("message", "a"),
        Event("message", "b"),
    ]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert read(b"data: \xff\n\n") == [Event("message", "\ufffd")]


def test_what_is_not_complete_is_left_to_be_said() -> None:
    text = EventText()
    list(text.feed(b"data: a\n\nid: 1\nevent: x\n: c\ndata: b\ndata: c\xe2\x82"))
    assert text.rest() == b": c\nid: 1\nevent: x\ndata: b\ndata: c\xe2\x82"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"n": 1.0}', b'{"n": 1.0}'),
        ("12345678901234567890123", b"12345678901234567890123"),
        ("1e5", b"1e5"),
        ("hello", b'"hello"'),
        ('"hello"', b'"\\"hello\\""'),
        ("[DONE]", b'"[DONE]"'),
        ("NaN", b'"NaN"'),
        ("", b'""'),
        ("a\nb", b'"a\\nb"'),
        ("[1,\n2]", b'"[1,\\n2]"'),
        ("[" * 100_000, b'"' + b"[" * 100_000 + b'"'),
    ],
    ids=[
        "object",
        "number",
        "float",
        "text",
        "string",
        "done",
        "nan",
        "empty",
        "lines",
        "multi",
        "deep",
    ],
)
def test_json_is_stored_as_it_is_and_text_as_a_string(text: str, data: bytes) -> None:
    assert to_draft(Event("message", text), 1_000_000).data == data
    assert stored(Event("message", text)) == Event("message", text)


@pytest.mark.parametrize(
    "event",
    [
        Event("workflow_complete", "1"),
        Event("run_lost", "x"),
        Event("holdfast.gap", "{}"),
        Event("x" * 300, "{}"),
        Event("a\tb", "{}"),
        Event("x", "{}", "7", 3000),
        Event("x", "text", ""),
        Event("message", '{"holdfast":{"id":"1"},"data":2}'),
        Event("message", '{"holdfast":'),
    ],
    ids=["end", "ours", "frame", "long", "control", "id", "no id", "looks like it", "half"],
)
def test_what_an_event_has_beside_its_data_is_kept_with_it(event: Event) -> None:
    assert stored(event) == event


@pytest.mark.parametrize(
    "data",
    [
        b'{"holdfast":{"id":"a\\nb"},"data":1}',
        b'{"holdfast":{"type":"a\\rb"},"data":1}',
        b'{"holdfast":{"other":1},"data":1}',
        b'{"holdfast":{"retry":"1"},"data":1}',
        b'{"holdfast":1,"data":1}',
        b'{"holdfast":{"id":"a"},"other":1}',
        b'{"holdfast":{',
        b'{"holdfast":' + b"[" * 100_000,
    ],
    ids=["line in id", "line in type", "other", "retry", "no object", "no data", "half", "deep"],
)
def test_what_another_program_made_up_is_data(data: bytes) -> None:
    entry = Entry(EventId(1, 0), "message", data)
    assert to_event(entry) == Event("message", data.decode())


def test_an_event_that_is_too_large_is_refused_with_its_size() -> None:
    with pytest.raises(EventTooLarge, match="12 bytes"):
        to_draft(Event("message", "x" * 10), 11)


# What breaks lines elsewhere, what a stream is spelled with, and what is long in UTF-8.
LETTERS = 'ab :,{}[]"\\\t\x0b\x1f\x85\u2028\ufeff€𝄞0123'


def any_event(random: Random) -> Event:
    def line(least: int = 0) -> str:
        return "".join(random.choices(LETTERS, k=random.randint(least, 12)))

    text = "\n".join(line() for _ in range(random.randint(1, 4)))
    return Event(
        random.choice(["message", line(1)]),
        random.choice([text, json.dumps(random.randint(-(10**30), 10**30))]),
        random.choice([None, line()]),
        random.choice([None, random.randint(0, 10**9)]),
    )


@pytest.mark.parametrize("seed", range(20))
def test_any_event_comes_back_as_it_was(seed: int) -> None:
    random = Random(seed)
    events = [any_event(random) for _ in range(40)]
    text = b"".join(spell(stored(event), event.id) for event in events)
    size = random.randint(1, 7)
    found = read(*(text[at : at + size] for at in range(0, len(text), size)))
    assert [each for each in found if isinstance(each, Event)] == events
