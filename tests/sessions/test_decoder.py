"""What was decoded a moment ago is known again, and is nobody else's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import CorruptData
from holdfast.sessions.record import decode_fields, encode_value
from holdfast.sessions.request.decoder import Decoder, mark_of

text = st.text(st.characters(codec="utf-8"))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
sessions = st.dictionaries(st.sampled_from("abcd"), values)


def stored(data: dict[str, Any]) -> dict[str, bytes]:
    return {key: encode_value(key, value) for key, value in data.items()}


@settings(max_examples=30, deadline=None)
@given(st.lists(sessions, max_size=5))
def test_whatever_another_process_has_written_is_found(lives: list[dict[str, Any]]) -> None:
    decoder = Decoder()
    for data in [{}, {"a": 1}, {"a": 1, "b": 2}, {"b": 2}, *lives]:
        fields = stored(data)
        for _ in range(2):
            found, mark = decoder.decode("id", fields)
            assert found == decode_fields(fields)
            assert list(found) == sorted(found)
            assert mark == mark_of(decode_fields(fields))


def test_what_a_request_does_to_its_values_no_other_sees() -> None:
    decoder, fields = Decoder(), {"cart": b"[1]", "n": b"1"}
    for n in (b"1", b"1", b"2"):
        found, _ = decoder.decode("id", {**fields, "n": n})
        assert found["cart"] == [1]
        found["cart"].append(2)
        found["more"] = 3


def test_a_store_may_change_what_it_gave() -> None:
    decoder, fields = Decoder(), {"a": b"1"}
    decoder.decode("id", fields)
    fields["a"] = b"2"
    assert decoder.decode("id", fields)[0] == {"a": 2}


def test_what_is_no_json_is_corrupt_also_in_a_session_that_was_seen() -> None:
    decoder = Decoder()
    decoder.decode("id", {"a": b"1", "b": b"2"})
    with pytest.raises(CorruptData):
        decoder.decode("id", {"a": b"1", "b": b"{"})
    assert decoder.decode("id", {"a": b"1", "b": b"3"})[0] == {"a": 1, "b": 3}


def test_two_sessions_are_two() -> None:
    decoder = Decoder()
    for id_hash, raw in (("one", b"1"), ("other", b"2"), ("one", b"1")):
        assert decoder.decode(id_hash, {"a": raw})[0] == {"a": int(raw)}


def test_it_does_not_grow_without_end() -> None:
    decoder = Decoder()
    for n in range(600):
        decoder.decode(str(n), {"a": b"%d" % n})
    decoder.decode("large", {"a": b'"%s"' % (b"x" * 20_000)})
    assert len(decoder._known) <= 256
    assert "large" not in decoder._known
