"""What a client says on a WebSocket of many runs, as values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.streams.cursor import TAIL, Cursor
from holdfast.streams.doors.commands import MAX_FRAME, Add, Drop, Nonsense, parse_command
from holdfast.streams.event import EventId

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("frame", "command"),
    [
        ({"kind": "add", "run_id": "r"}, Add("r")),
        ({"kind": "add", "run_id": "r", "last_id": None, "token": None}, Add("r")),
        ({"kind": "add", "run_id": "r", "last_id": "0"}, Add("r", Cursor())),
        ({"kind": "add", "run_id": "r", "last_id": "$", "new": 1}, Add("r", TAIL)),
        (
            {"kind": "add", "run_id": "a/b", "last_id": "5-0~p.1", "token": "t"},
            Add("a/b", Cursor(EventId(5, 0), {"p": 1}), "t"),
        ),
        ({"kind": "drop", "run_id": "r"}, Drop("r")),
        ({"kind": "add", "run_id": "bad{"}, Nonsense("INVALID_RUN_ID", "bad{")),
        ({"kind": "drop", "run_id": "x" * 9**3}, Nonsense("INVALID_RUN_ID", "x" * 256)),
        ({"kind": "add", "run_id": "\ud800"}, Nonsense("INVALID_RUN_ID")),
        ({"kind": "drop", "run_id": 5}, Nonsense("INVALID_RUN_ID")),
        ({"kind": "drop"}, Nonsense("INVALID_RUN_ID")),
        ({"kind": "add", "run_id": "r", "last_id": "x"}, Nonsense("INVALID_ID", "r")),
        ({"kind": "add", "run_id": "r", "last_id": 5}, Nonsense("INVALID_ID", "r")),
        ({"kind": "add", "run_id": "r", "token": ["t"]}, Nonsense("INVALID_FRAME", "r")),
        ({"kind": "add", "run_id": "r", "token": "\ud800"}, Nonsense("INVALID_FRAME", "r")),
        ({"kind": ["add"], "run_id": "r"}, Nonsense("INVALID_FRAME")),
        ({"run_id": "r"}, Nonsense("INVALID_FRAME")),
        (["add", "r"], Nonsense("INVALID_FRAME")),
    ],
)
def test_a_frame_asks_for_one_thing(frame: Any, command: Any) -> None:
    assert parse_command(json.dumps(frame)) == command


@pytest.mark.parametrize("text", [None, "", "add", "\0", "[" * MAX_FRAME, '{"kind":"add"'])
def test_what_is_no_json_is_nonsense(text: str | None) -> None:
    assert parse_command(text) == Nonsense("INVALID_FRAME")


def test_a_frame_that_is_too_large_is_not_even_read() -> None:
    text = json.dumps({"kind": "drop", "run_id": "r"})
    assert parse_command(text + " " * (MAX_FRAME - len(text))) == Drop("r")
    assert parse_command(text + " " * MAX_FRAME) == Nonsense("FRAME_TOO_LARGE")


@settings(max_examples=30)
@given(st.fixed_dictionaries({"kind": st.just("add") | JSON, "run_id": JSON, "last_id": JSON}))
def test_nothing_that_is_sent_is_an_exception(frame: Any) -> None:
    parse_command(json.dumps(frame))
