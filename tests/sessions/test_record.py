"""Data at rest: JSON, key by key, strict on the way in and on the way out."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CorruptData, SessionTooLarge
from holdfast.sessions.record import decode_fields, decode_value, encode_key, encode_value
from holdfast.sessions.request.decoder import mark_of
from holdfast.sessions.request.ledger import Ledger

text = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_what_json_carries_comes_back_equal_and_of_its_type(value: Any) -> None:
    back = decode_value("k", encode_value("k", value))
    assert back == value
    assert type(back) is type(value)
    assert encode_value("k", back) == encode_value("k", value)


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        b"bytes",
        uuid.uuid4(),
        decimal.Decimal(1),
        {1, 2},
        Colour.RED,
        object(),
        {1: "a"},
        {"a": [{"b": {None: 1}}]},
        ({True: 1},),
        {(1, 2): 3},
        circular(),
        deep(),
        10**5000,
        "\ud800",
        {"a": "\udfff"},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_carry_is_a_type_error_that_names_the_key(value: Any) -> None:
    with pytest.raises(TypeError, match=r"session\['cart'\] cannot be kept as JSON: "):
        encode_value("cart", value)


def test_the_error_shows_nothing_of_the_value() -> None:
    with pytest.raises(TypeError) as caught:
        encode_value("k", {"secret": "hunter2", "when": {b"hunter2"}})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", [1, None, b"k", ("a",), "\ud800"])
def test_a_key_that_is_no_text_is_a_type_error(key: object) -> None:
    with pytest.raises(TypeError, match="key"):
        encode_key(key)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"\xff",
        b"\x80\x04K\x01.",
        b"[" * 100_000,
        b"1 2",
    ],
)
def test_what_is_no_json_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptData, match="not JSON"):
        decode_value("k", data)
    with pytest.raises(CorruptData):
        decode_fields({"ok": b"1", "k": data})


def ledger(data: dict[str, Any], max_bytes: int = 1000) -> Ledger:
    stored = {key: encode_value(key, value) for key, value in data.items()}
    return Ledger(stored, max_bytes, mark_of(data))


def test_a_nested_change_is_found_and_equal_values_are_none() -> None:
    data: dict[str, Any] = {"cart": [1], "name": "a", "n": 1000, "same": {"x": 1}}
    book = ledger(data)
    data["cart"].append(2)
    data["same"] = {"x": 1}
    data["n"] = int("1000")
    assert book.difference(data) == ({"cart": b"[1,2]"}, ())


def test_keys_set_changed_and_removed_are_told_apart() -> None:
    data: dict[str, Any] = {"a": 1, "b": 2, "c": 3}
    book = ledger(data)
    del data["a"]
    data |= {"b": "2", "d": None}
    assert book.difference(data) == ({"b": b'"2"', "d": b"null"}, ("a",))
    book.settle({"b": b'"2"', "d": b"null"}, ("a",))
    assert book.difference(data) == ({}, ())
    book.forget()
    assert set(book.difference(data)[0]) == {"b", "c", "d"}


def test_a_value_changed_behind_the_dicts_back_is_found() -> None:
    data: dict[str, Any] = {"a": "x"}
    book = ledger(data)
    book.note({"b": "first"}, data)
    data["b"] = "second"
    assert book.difference(data)[0] == {"b": b'"second"'}


def test_beside_a_key_that_was_assigned_a_nested_change_is_found() -> None:
    data: dict[str, Any] = {"cart": [1], "n": 1, "gone": 1, "same": {"x": 1}}
    book = ledger(data)
    for key, value in {"n": 2, "new": 3, "gone": 4}.items():
        book.note({key: value}, data)
        data[key] = value
    del data["gone"]
    assert book.difference(data) == ({"n": b"2", "new": b"3"}, ("gone",))
    data["cart"].append(2)
    changed, removed = book.difference(data)
    assert (changed, removed) == ({"n": b"2", "new": b"3", "cart": b"[1,2]"}, ("gone",))
    book.settle(changed, removed)
    data["same"]["x"] = True
    assert book.difference(data) == ({"same": b'{"x":true}'}, ())


def test_what_another_task_wrote_since_is_no_part_of_what_was_stored() -> None:
    data: dict[str, Any] = {"a": [1], "b": [1]}
    book = ledger(data)
    data["a"].append(2)
    changed, removed = book.difference(data)
    data["b"].append(2)
    later, _ = book.difference(data)
    book.settle(changed, removed)
    assert book.difference(data) == ({"b": b"[1,2]"}, ())
    book.settle(later, ())
    assert book.difference(data) == ({}, ())


def test_a_value_may_not_become_what_json_cannot_carry() -> None:
    data: dict[str, Any] = {"cart": [1]}
    book = ledger(data)
    data["cart"].append(object())
    with pytest.raises(TypeError, match="cart"):
        book.difference(data)
    with pytest.raises(TypeError, match="str"):
        ledger({}).difference({1: 1})  # type: ignore[dict-item]


def test_the_size_is_checked_where_the_value_is_assigned() -> None:
    book = ledger({"a": "x" * 50}, max_bytes=100)
    with pytest.raises(SessionTooLarge, match=r"HOLDFAST_SESSION_MAX_BYTES allows 100.*'b'"):
        book.note({"b": "y" * 60}, {"a": "x" * 50})
    book.note({"b": "y" * 40}, {"a": "x" * 50})


def test_replacing_a_large_value_by_another_is_no_sum_of_both() -> None:
    data: dict[str, Any] = {"a": "x" * 80}
    book = ledger(data, max_bytes=100)
    book.note({"a": "y" * 80}, data)
    del data["a"]
    book.note({"b": "z" * 80}, data)


def test_a_value_that_grew_is_checked_at_the_commit_and_a_shrinking_session_is_not() -> None:
    data: dict[str, Any] = {"a": []}
    book = ledger(data, max_bytes=50)
    data["a"].append("x" * 60)
    with pytest.raises(SessionTooLarge):
        book.difference(data)
    large: dict[str, Any] = {"a": "x" * 60, "b": "y" * 60}
    book = ledger(large, max_bytes=50)
    del large["b"]
    assert book.difference(large) == ({}, ("b",))


@given(
    st.dictionaries(text, json_values, max_size=5), st.dictionaries(text, json_values, max_size=5)
)
def test_applying_the_difference_gives_what_the_handler_has(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    book = ledger(before, max_bytes=10**9)
    changed, removed = book.difference(after)
    result = {k: v for k, v in book.stored.items() if k not in removed} | changed
    assert decode_fields(result) == after
    assert json.loads(json.dumps(sorted(changed))) == sorted(changed)


@pytest.mark.parametrize(
    "broken",
    [
        (b"[1", b"2]", b"3,4"),
        (b'"a', b'b"', b"1,2,3"),
        (b"1,2", b"", b"3"),
        (b"1],[2", b"3", b"4"),
        (b"1", b"NaN", b"2"),
    ],
)
def test_what_is_no_json_by_itself_is_corrupt_in_any_company(broken: tuple[bytes, ...]) -> None:
    with pytest.raises(CorruptData):
        decode_fields({str(place): raw for place, raw in enumerate(broken)})


def test_blanks_around_a_value_of_another_hand_are_none_of_it() -> None:
    assert decode_fields({"a": b" 1", "b": b"\n2 "}) == {"a": 1, "b": 2}
    assert decode_value("a", b" 1\t") == 1


def test_values_that_are_json_only_together_are_none() -> None:
    with pytest.raises(CorruptData):
        decode_fields({"a": b"1,null,2", "b": b"[3", "c": b"4]"})
