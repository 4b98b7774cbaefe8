"""The wire format, version 1: what clients parse, byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.streams import frames
from holdfast.streams.event import EventId, encode_data
from holdfast.streams.frames import encode
from holdfast.streams.store import Entry


def frame(data: Any, kind: str = "token", run: str = "r", **more: Any) -> frames.Frame:
    entry = Entry(EventId(1767225600125, 7), kind, encode_data(data, 1 << 20), **more)
    return encode(run, entry)


def test_event_source_frame_has_id_type_and_one_line_of_data() -> None:
    assert frame({"a": [1, "é"]}).event_source("5-0~p.1") == (
        b"id: 5-0~p.1\nevent: token\ndata: " + '{"a":[1,"é"]}'.encode() + b"\n\n"
    )


@pytest.mark.parametrize(
    "text",
    ["\r", "\n\nevent: x\n", "\u2028\u2029\u0085\v\f", "data: x\r\nid: 1", "\0", "\ufeff", " x"],
)
def test_no_data_can_break_out_of_its_line(text: str) -> None:
    sent = frame({"t": text}).event_source("1-0")
    lines = sent.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"id", b"event", b"data", b"", b""]
    assert json.loads(lines[2].removeprefix(b"data: ")) == {"t": text}


@pytest.mark.parametrize("envelope", [False, True])
def test_who_splits_lines_by_unicode_has_the_event_whole(envelope: bool) -> None:
    text = "a\u2028b\u2029c\u0085d “e” — é"
    sent = frame({text: text}).event_source("1-0", envelope=envelope).decode()
    assert sent.splitlines() == sent.split("\n")[:-1]
    value = json.loads(sent.split("data: ")[1])
    assert (value["data"] if envelope else value) == {text: text}


def test_websocket_frame_is_json_with_the_cursor_as_its_id() -> None:
    one = frame({"n": 2**63}, run='a "b"', created_ms=1767225600125)
    for cursor in ("1-0", "2-0~p.1"):
        assert json.loads(one.websocket(cursor)) == {
            "kind": "event",
            "run_id": 'a "b"',
            "id": cursor,
            "type": "token",
            "data": {"n": 2**63},
            "created_at": "2026-01-01T00:00:00.125Z",
        }


def test_envelope_is_the_websocket_frame_as_a_message() -> None:
    one = frame([1], created_ms=5)
    assert one.event_source("9-9", envelope=True) == (
        f"id: 9-9\ndata: {one.websocket('9-9')}\n\n".encode()
    )


def test_rest_element_names_a_provisional_event_by_a_cursor() -> None:
    one = frame(None, producer="p", seq=3, provisional=True, created_ms=0)
    assert json.loads(one.json()) == {
        "id": "1767225600125-7~p.3",
        "type": "token",
        "data": None,
        "created_at": "1970-01-01T00:00:00.000Z",
    }


@pytest.mark.parametrize("kind", ["gap", "reset"])
def test_control_events_carry_no_id_line(kind: frames.ControlKind) -> None:
    fields = {"requested": "1-0", "earliest": None}
    value = {"kind": kind, "run_id": "r", "requested": "1-0", "earliest": None}
    plain = frames.control_event_source(kind, "r", **fields).decode()
    assert plain == f"event: holdfast.{kind}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n"
    wrapped = frames.control_envelope(kind, "r", **fields).decode()
    assert wrapped.startswith("data: ")
    assert json.loads(wrapped.removeprefix("data: ")) == value
    assert json.loads(frames.control_websocket(kind, "r", **fields)) == value


def test_heartbeat_is_a_comment_and_retry_a_number() -> None:
    assert frames.comment() == b":\n\n"
    assert frames.comment("waiting") == b": waiting\n\n"
    assert frames.retry(2500) == b"retry: 2500\n\n"
