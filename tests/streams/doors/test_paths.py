"""Addresses: which operation they name, and which run, from the raw path alone."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.errors import InvalidEvent
from holdfast.streams.doors.paths import Target, find


def scope(raw: str | bytes, path: str | None = None, root: str = "") -> dict[str, Any]:
    raw = raw.encode() if isinstance(raw, str) else raw
    return {"raw_path": raw, "path": path or raw.decode("latin-1"), "root_path": root}


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/runs/r/events", Target("events", "r")),
        ("/runs/r/events/stream", Target("stream", "r")),
        ("/runs/r/events/ws", Target("websocket", "r")),
        ("/events/stream", Target("many_stream")),
        ("/events/ws", Target("many_websocket")),
        ("/runs/r/stop", Target("stop", "r")),
        ("/runs/stop/stop", Target("stop", "stop")),
        ("/runs/r/stop/", None),
        ("/livez", Target("livez")),
        ("/readyz", Target("readyz")),
        ("/runs/r/events?x=/runs/s/events", Target("events", "r")),
        ("/runs/A/events", Target("events", "A")),
        ("/runs/a%2Fb/events", Target("events", "a/b")),
        ("/runs/a%252Fb/events", Target("events", "a%2Fb")),
        ("/runs/%E2%98%83/events", Target("events", "☃")),
        ("/runs/☃/events", Target("events", "☃")),
        ("/runs/events/events/stream", Target("stream", "events")),
        ("/runs/a/b/events", None),
        ("/runs/r/events/", None),
        ("/runs/r", None),
        ("/runs", None),
        ("/", None),
        ("", None),
        ("/Runs/r/events", None),
        ("/livez/x", None),
    ],
)
def test_address_names_operation_and_run(path: str, target: Target | None) -> None:
    assert find(scope(path)) == target


@pytest.mark.parametrize(
    "run",
    ["", ".", "..", "%2e%2e", "%00", "a%0Ab", "%7Bx%7D", "%FF", b"\xff", "%ED%A0%80", "x" * 257],
)
def test_run_that_cannot_exist_is_refused(run: str | bytes) -> None:
    run = run.encode() if isinstance(run, str) else run
    with pytest.raises(InvalidEvent):
        find(scope(b"/runs/" + run + b"/events"))


@pytest.mark.parametrize(
    ("root", "path", "raw"),
    [
        ("/streams", "/streams/runs/a/b/events", "/streams/runs/a%2Fb/events"),
        ("/x/streams/", "/x/streams/runs/a/b/events", "/x/streams/runs/a%2Fb/events"),
        ("/streams", "/runs/a/b/events", "/runs/a%2Fb/events"),
    ],
)
def test_mount_is_left_out_whether_or_not_the_server_keeps_it_in_the_path(
    root: str, path: str, raw: str
) -> None:
    assert find(scope(raw, path, root)) == Target("events", "a/b")


def test_without_a_raw_path_only_an_unambiguous_run_is_found() -> None:
    assert find({"path": "/runs/a%b/events"}) == Target("events", "a%b")
    for path in ("/runs/a/b/events", "/runs/a/b/stop"):
        with pytest.raises(InvalidEvent, match="raw path"):
            find({"path": path, "raw_path": None})
    assert find({"path": "/runs/a/b/other"}) is None
