"""Which requests are captured."""

from __future__ import annotations

import pytest
from tests.streams.capture.calls import settings_of

from holdfast.streams.capture.binding import set_cookie
from holdfast.streams.capture.match import captures, run_headers


@pytest.mark.parametrize(
    ("path", "root", "found"),
    [
        ("/feed", "", True),
        ("/feed/x", "", True),
        ("/feeds", "", False),
        ("/", "", False),
        ("/app/feed", "/app", True),
        ("/app", "/app", False),
        ("/application/feed", "/app", False),
        ("/feed", "/app", True),
        ("/streams/runs/r/events/stream", "", False),
        ("/app/streams/x", "/app", False),
    ],
)
def test_paths_match_by_whole_segments_after_the_root(path: str, root: str, found: bool) -> None:
    scope = {"type": "http", "method": "GET", "path": path, "root_path": root}
    assert captures(scope, ["/feed"], "/streams") is found


def test_all_paths_are_captured_but_for_the_sub_apps() -> None:
    scope = {"type": "http", "method": "GET", "path": "/anything", "root_path": ""}
    assert captures(scope, ["/"], "/streams")
    assert not captures({**scope, "path": "/streams/x"}, ["/"], "/streams")
    assert not captures({**scope, "type": "websocket"}, ["/"], "/streams")


def test_the_link_goes_through_the_root_and_spells_it() -> None:
    (_, (name, link)) = run_headers("r", "/a b", "/streams/")
    assert name == b"link"
    assert link.startswith(b"</a%20b/streams/runs/r/events/stream>; ")


def test_the_cookie_has_what_the_session_cookie_has() -> None:
    settings = settings_of(
        session_partitioned=True, session_https_only=True, session_same_site="none"
    )
    assert set_cookie("n", settings) == (
        b"holdfast_capture=n; path=/; httponly; samesite=none; secure; partitioned"
    )
