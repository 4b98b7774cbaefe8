"""Cursors as values: what a position may be spelled like, and how events move it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.streams.cursor import MAX_PRODUCERS, TAIL, Cursor, parse_position
from holdfast.streams.event import MAX_PART, ZERO, EventId

PARTS = st.integers(min_value=0, max_value=MAX_PART)
PRODUCERS = st.text(alphabet="abcdef0123456789", min_size=1, max_size=32)
SEEN = st.dictionaries(PRODUCERS, st.integers(1, 10**18), max_size=MAX_PRODUCERS)


@given(PARTS, PARTS, SEEN)
def test_a_cursor_reads_as_it_is_written(ms: int, seq: int, seen: dict[str, int]) -> None:
    cursor = Cursor(EventId(ms, seq), seen)
    assert parse_position(str(cursor)) == cursor


@pytest.mark.parametrize("text", [None, "", "0", "-1", "0-0"])
def test_the_start_has_several_spellings(text: str | None) -> None:
    assert parse_position(text) == Cursor(ZERO)


def test_the_tail_is_only_for_streams() -> None:
    assert parse_position("$") is TAIL
    assert parse_position("$", allow_tail=False) is None
    assert repr(TAIL) == "TAIL"


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "-2",
        "$ ",
        "0 ",
        "5-0~",
        "5-0~a",
        "5-0~a.",
        "5-0~a.0",
        "5-0~a.01",
        "5-0~a.-1",
        "5-0~.1",
        "5-0~a-b.1",
        "5-0~é.1",
        "5-0~a.1~a.2",
        "5-0~" + "a" * 33 + ".1",
        "5-0~a." + "1" * 20,
        "5-0" + "".join(f"~p{n}.1" for n in range(9)),
        "~a.1",
        "$~a.1",
    ],
)
def test_anything_else_is_malformed(text: str) -> None:
    assert parse_position(text) is None


def test_a_producer_is_named_until_its_last_seen_event_is_stored() -> None:
    cursor = Cursor(EventId(5, 0))
    assert cursor.advance_provisional("p", 7)
    assert cursor.advance_provisional("p", 8)
    assert str(cursor) == "5-0~p.8"
    assert [cursor.has_seen("p", seq) for seq in (7, 8, 9)] == [True, True, False]
    cursor.advance(EventId(6, 0), "q", 100)
    cursor.advance(EventId(7, 0), "p", 7)
    assert str(cursor) == "7-0~p.8"
    cursor.advance(EventId(8, 0), "p", 8)
    assert str(cursor) == "8-0"


def test_an_event_of_another_program_was_never_seen_before() -> None:
    cursor = Cursor(EventId(5, 0), {"p": 3})
    assert not cursor.has_seen(None, 0)
    assert not cursor.has_seen("-", 0)
    cursor.advance(EventId(6, 0), None, 0)
    assert str(cursor) == "6-0~p.3"


def test_a_ninth_producer_does_not_fit() -> None:
    cursor = Cursor(EventId(5, 0))
    for number in range(MAX_PRODUCERS):
        assert cursor.advance_provisional(f"p{number}", 1)
    before = str(cursor)
    assert not cursor.advance_provisional("p9", 1)
    assert str(cursor) == before
    assert cursor.advance_provisional("p0", 2)


@pytest.mark.parametrize(
    ("seq", "stored_by", "reached"),
    [
        (0, None, True),
        (3, None, True),
        (4, None, False),
        (4, EventId(5, 0), True),
        (4, EventId(5, 1), False),
    ],
    ids=["none", "seen", "waiting and not seen", "stored before", "stored after"],
)
def test_cursor_reaches_what_it_has_seen_stored_or_not(
    seq: int, stored_by: EventId | None, reached: bool
) -> None:
    cursor = Cursor(EventId(5, 0), {"p": 3})
    assert cursor.reaches("p", seq, stored_by) is reached
