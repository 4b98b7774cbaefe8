"""Events as values: ids, checks and encodings. Their refusals are in the suite of the stores."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import EventTooLarge, InvalidEvent
from holdfast.streams.event import (
    MAX_PART,
    ZERO,
    EventId,
    check_owner,
    check_type,
    encode_data,
    normalise_data,
    normalise_type,
    parse_id,
    rfc3339,
)

PARTS = st.integers(min_value=0, max_value=MAX_PART)


@given(PARTS, PARTS)
def test_an_id_reads_as_it_is_written(ms: int, seq: int) -> None:
    assert parse_id(str(EventId(ms, seq))) == EventId(ms, seq)


@given(PARTS, PARTS, PARTS, PARTS)
def test_ids_are_ordered_by_number(a: int, b: int, c: int, d: int) -> None:
    assert (EventId(a, b) < EventId(c, d)) is ((a, b) < (c, d))


@given(st.text(alphabet="0123456789-+ ~(\x00٥", max_size=24))
def test_what_is_read_as_an_id_is_spelled_as_redis_does(text: str) -> None:
    found = parse_id(text)
    assert found is None or str(found) == text


def test_nine_comes_before_ten() -> None:
    assert EventId(9, 0) < EventId(10, 0) < EventId(10, 1) < EventId(10, 10)


@pytest.mark.parametrize(
    ("before", "after"),
    [((5, 0), (5, 1)), ((5, MAX_PART), (6, 0)), ((0, 0), (0, 1))],
)
def test_the_next_id_is_the_smallest_above(before: tuple[int, int], after: tuple[int, int]) -> None:
    assert EventId(*before).next() == after


def test_a_moment_beyond_every_calendar_is_its_last() -> None:
    assert EventId(MAX_PART, 0).created_at.year == 9999
    assert ZERO.created_at == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_moment_is_told_in_utc_with_milliseconds() -> None:
    berlin = timezone(timedelta(hours=1))
    moment = datetime(2026, 1, 31, 10, 30, 0, 125999, tzinfo=berlin)
    assert rfc3339(moment) == "2026-01-31T09:30:00.125Z"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        # No half surrogate pairs: those are refused.
        | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet="ab\r\n\u2028"), inner),
        max_leaves=20,
    )
)
def test_encoded_data_is_one_line_and_decodes_to_itself(value: object) -> None:
    encoded = encode_data(value, 1 << 20)
    assert json.loads(encoded) == value
    assert b"\n" not in encoded
    assert b"\r" not in encoded
    assert normalise_data(encoded) == encoded


@given(st.binary(max_size=200))
@example(b'{\n  "pretty": true\r\n}')
def test_whatever_another_program_stored_becomes_one_line_of_json(raw: bytes) -> None:
    normal = normalise_data(raw)
    json.loads(normal)
    assert b"\n" not in normal
    assert b"\r" not in normal


@given(st.binary(max_size=300))
@example(b"holdfast.gap")
def test_whatever_type_another_program_stored_fits_a_frame(raw: bytes) -> None:
    kind = normalise_type(raw)
    assert check_type(kind, ours=True) == kind
    assert not kind.startswith("holdfast.")


def test_the_bound_counts_bytes_inclusively() -> None:
    assert encode_data("é", 4) == '"é"'.encode()
    with pytest.raises(EventTooLarge):
        encode_data("é", 3)


def test_holdfast_itself_may_use_its_own_types() -> None:
    for kind in ("run_lost", "run_stopped", "holdfast.gap"):
        assert check_type(kind, ours=True) == kind
        with pytest.raises(InvalidEvent, match="belongs to holdfast"):
            check_type(kind)


@pytest.mark.parametrize("kind", [{1: 2}, None, b"t", 5, ["t"]])
def test_a_type_that_is_no_text_is_refused_by_the_name_of_the_argument(kind: object) -> None:
    with pytest.raises(InvalidEvent, match=f"^type: .*, not {type(kind).__name__}$"):
        check_type(kind)


@pytest.mark.parametrize("owner", ["user:1", "session:abc", "user:Zoë", None])
def test_an_owner_is_a_user_or_a_session(owner: str | None) -> None:
    assert check_owner(owner) == owner


@pytest.mark.parametrize("owner", ["", "1", "User:1", "user:\ud800", "user:" + "x" * 512, 7])
def test_another_owner_is_refused(owner: object) -> None:
    with pytest.raises(InvalidEvent, match="owner"):
        check_owner(owner)
