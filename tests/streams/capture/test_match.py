"""Which requests are captured."""

from __future__ import annotations

import pytest
from tests.streams.capture.calls import settings_of

from holdfast.streams.capture.binding import set_cookie
from holdfast.streams.capture.match import captures, first_headers, later_headers, run_headers


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


def test_an_answer_that_brings_a_cookie_is_not_for_shared_caches() -> None:
    public = [(b"cache-control", b"public, max-age=60")]
    cookie = [(b"set-cookie", b"holdfast_capture=n")]
    assert dict(first_headers(public, cookie))[b"cache-control"] == b"no-store, no-transform"
    own = [(b"cache-control", b"Private, no-transform")]
    assert dict(first_headers(own, cookie))[b"cache-control"] == b"Private, no-transform"
    assert dict(first_headers(public, []))[b"cache-control"] == b"public, max-age=60"


def test_a_page_of_another_origin_may_read_which_run_it_has() -> None:
    cors = [(b"access-control-allow-origin", b"https://a.test")]
    for found in (first_headers(cors, []), later_headers(cors, [])):
        assert (b"access-control-expose-headers", b"Holdfast-Run, Link") in found
    assert b"access-control-expose-headers" not in dict(first_headers([], []))
