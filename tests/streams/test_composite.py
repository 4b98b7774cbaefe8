"""Composites as values: what they hold, how small they stay, and what is none."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.streams.composite import GONE, MAX_RUNS, MAX_TEXT, Composite, Place, parse
from holdfast.streams.cursor import MAX_PRODUCERS, TAIL, Cursor
from holdfast.streams.event import MAX_PART, ZERO, EventId

PARTS = st.integers(0, MAX_PART)
PRODUCERS = st.text(alphabet="abcdef0123456789", min_size=1, max_size=32)
SEEN = st.dictionaries(PRODUCERS, st.integers(1, 10**19 - 1), max_size=MAX_PRODUCERS)
CURSORS = st.builds(Cursor, st.builds(EventId, PARTS, PARTS), SEEN)
PLACES = st.dictionaries(st.text(min_size=1), CURSORS | st.just(GONE), max_size=12)
# As an outage leaves it: some processes that every run names.
OUTAGE = [f"{n:012x}" for n in range(MAX_PRODUCERS)]


def made(places: dict[str, Place]) -> Composite:
    composite = Composite()
    for run, place in places.items():
        composite.move(run, place)
    return composite


def sealed(body: bytes) -> str:
    """Any bytes, with a checksum that is right."""
    whole = body + zlib.crc32(body).to_bytes(4)
    return base64.urlsafe_b64encode(whole).rstrip(b"=").decode()


@given(PLACES)
def test_a_composite_reads_as_it_is_written(places: dict[str, Place]) -> None:
    text = str(made(places))
    composite = parse(text)
    assert composite is not None
    assert str(composite) == text
    assert text.isascii()
    for run, place in places.items():
        start = isinstance(place, Cursor) and place.base == ZERO and not place.seen
        assert composite.place(run) == (None if start else place)


@given(PLACES, st.text(min_size=1))
def test_a_run_that_is_not_in_it_begins_at_its_start(places: dict[str, Place], run: str) -> None:
    places.pop(run, None)
    assert made(places).position(run) == Cursor()


@given(PLACES, st.data())
def test_a_composite_with_any_letter_changed_or_cut_off_is_none(
    places: dict[str, Place], data: st.DataObject
) -> None:
    text = str(made(places))
    at = data.draw(st.integers(0, len(text) - 1))
    assert parse(text[:at] or "x") is None
    other = "A" if text[at] != "A" else "B"
    assert parse(text[:at] + other + text[at + 1 :]) is None


@given(st.binary(max_size=80))
def test_made_up_bytes_under_a_right_checksum_are_one_composite_or_none(body: bytes) -> None:
    text = sealed(b"\x01" + body)
    composite = parse(text)
    assert composite is None or str(composite) == text


@pytest.mark.parametrize(
    "text",
    [
        "1795258887617-0",
        "$ ",
        "01",
        "é",
        "A" * (MAX_TEXT + 1),
        "====",
        sealed(b""),
        sealed(b"\x02\x00"),
        sealed(b"\x01"),
        sealed(b"\x01\x00" + b"r" * 8),
        sealed(b"\x01\x00" + b"r" * 8 + b"\x0a"),
        sealed(b"\x01\x00" + (b"r" * 8 + b"\x09") * 2),
        sealed(b"\x01\x00" + b"r" * 8 + b"\x00\x00\x00"),
        sealed(b"\x01\x00" + b"r" * 8 + b"\x00\x81\x00\x00"),
        sealed(b"\x01\x00" + b"r" * 8 + b"\x00" + b"\xff" * 11 + b"\x00\x00"),
        sealed(b"\x01\x00" + b"r" * 8 + b"\x01\x01\x00\x00\x01"),
        sealed(b"\x01\x01\x01-" + b"r" * 8 + b"\x01\x01\x00\x00\x01"),
        sealed(b"\x01\x01\x01a" + b"r" * 8 + b"\x01\x01\x00\x00\x00"),
        sealed(b"\x01\x01\x01a" + b"r" * 8 + b"\x02\x01\x00\x00\x01\x00\x02"),
        sealed(b"\x01\x01\x01a" + b"r" * 8 + b"\x09"),
        sealed(b"\x01\x00" + b"".join(n.to_bytes(8) + b"\x09" for n in range(MAX_RUNS + 1))),
        str(made({"r": Cursor(EventId(1, 0))})) + "=",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize("text", [None, "", "0", "-1"])
def test_the_start_of_all_has_several_spellings(text: str | None) -> None:
    composite = parse(text)
    assert composite is not None
    assert composite.is_start
    assert composite.position("r") == Cursor()


def test_the_tail_is_that_of_each_run_which_has_no_place_yet() -> None:
    composite = parse("$")
    assert composite is not None
    assert not composite.is_start
    assert composite.position("r") is TAIL
    composite.move("r", Cursor(EventId(5, 0)))
    assert composite.position("r") == Cursor(EventId(5, 0))
    # Of no place is known what it is, so it is not in what a client keeps.
    again = parse(str(composite))
    assert again is not None
    assert again.position("other") == Cursor()


def test_a_hundred_runs_fit_whatever_their_ids() -> None:
    usual = made({f"run {n}": Cursor(EventId(1795258887617, n)) for n in range(MAX_RUNS)})
    assert len(str(usual)) < 2300
    worst = made({f"run {n}": Cursor(EventId(MAX_PART, MAX_PART)) for n in range(MAX_RUNS)})
    assert len(str(worst)) <= MAX_TEXT
    assert str(parse(str(worst))) == str(worst)


def test_a_hundred_runs_fit_in_an_outage_that_two_processes_publish_through() -> None:
    composite = made(
        {
            f"run {n}": Cursor(EventId(1795258887617, n), dict.fromkeys(OUTAGE[:2], 10**5))
            for n in range(MAX_RUNS)
        }
    )
    assert len(str(composite)) <= MAX_TEXT
    assert str(parse(str(composite))) == str(composite)


def test_one_that_grew_too_long_shrinks_by_the_run_that_names_most_processes() -> None:
    runs = {
        f"run {n}": Cursor(EventId(1795258887617, n), dict.fromkeys(OUTAGE, 10**6))
        for n in range(MAX_RUNS)
    }
    heavy = "run 7"
    runs["run 3"].seen.popitem()
    composite = made({**runs, heavy: Cursor(ZERO, dict.fromkeys(OUTAGE, 1))})
    assert len(str(composite)) > MAX_TEXT
    assert parse(str(composite)) is None
    assert composite.heaviest(["run 3", heavy]) == heavy
    while len(str(composite)) > MAX_TEXT:
        found = composite.heaviest(list(runs))
        assert found is not None
        composite.forget(found)
    assert len(composite) > MAX_RUNS / 2
    plain = made({"a": Cursor(EventId(1, 0)), "b": GONE})
    assert plain.heaviest(["a", "b", "c"]) is None
    assert plain.heaviest([]) is None


def test_places_of_runs_that_are_read_no_more_make_room_oldest_first() -> None:
    composite = made({f"run {n}": Cursor(EventId(1, n)) for n in range(MAX_RUNS + 2)})
    composite.keep_room(["run 0", f"run {MAX_RUNS + 1}"])
    assert len(composite) == MAX_RUNS
    known = [n for n in range(MAX_RUNS + 2) if composite.place(f"run {n}")]
    assert known == [0, *range(3, MAX_RUNS + 2)]
    composite.keep_room([])
    assert len(composite) == MAX_RUNS


def test_what_a_reader_does_to_its_position_does_not_move_the_composite() -> None:
    composite = made({"r": Cursor(EventId(1, 0), {"a": 1})})
    position = composite.position("r")
    assert isinstance(position, Cursor)
    position.advance(EventId(2, 0), "a", 1)
    assert composite.position("r") == Cursor(EventId(1, 0), {"a": 1})
    assert repr(GONE) == "GONE"
