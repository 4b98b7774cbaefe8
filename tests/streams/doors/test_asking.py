"""Which form of a run's events a request asks for, as a person or a program would try."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from holdfast import EventStreamApp, RunPublisher, Settings
from holdfast.streams.doors.asking import MAX_WAIT, Form, form_of, wait_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON: Form = "application/json"
SSE: Form = "text/event-stream"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("application/json", JSON),
        ("text/event-stream", SSE),
        ("Text/Event-Stream", SSE),
        ("application/json, text/event-stream;q=0.9", JSON),
        ("application/json;q=0.5, text/event-stream;q=0.9", SSE),
        ("application/json;q=0.5,text/event-stream ; q=0.501", SSE),
        ("application/json;q=0, */*", SSE),
        ("text/event-stream;q=0, */*", JSON),
        ("text/*, */*;q=0.1", SSE),
        ("application/*;q=0.2, */*;q=0.1", JSON),
        ("text/*;q=0.9, text/event-stream;q=0.1, application/json;q=0.5", JSON),
        ("application/json;charset=utf-8", JSON),
        ("text/event-stream, application/problem+json", SSE),
        ("application/json;q=junk, text/event-stream", SSE),
    ],
)
def test_the_form_liked_better_is_given_at_either_address(accept: str, form: Form) -> None:
    assert {form_of(accept, usual) for usual in get_args(Form)} == {form}


@pytest.mark.parametrize(
    "accept",
    [
        *("", "*/*", BROWSER, "image/png", "application/json, text/event-stream", "junk", ";q=1"),
        *("application/json;q=0.3, text/event-stream;q=0.3", ",,,"),
    ],
)
def test_who_does_not_say_gets_what_the_address_is_for(accept: str) -> None:
    assert form_of(accept, JSON) == JSON
    assert form_of(accept, SSE) == SSE


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        *(("", 15), ("wait=", 15), ("wait=0", 0), ("wait=60", 60), ("wait=61", MAX_WAIT)),
        *(("wait=inf", MAX_WAIT), ("wait=-1", None), ("wait=nan", None), ("wait=x", None)),
    ],
)
def test_nobody_is_kept_waiting_longer_than_a_minute(query: str, seconds: float | None) -> None:
    asked = HTTPConnection({"type": "http", "query_string": query.encode(), "headers": []})
    assert wait_of(asked, 15, None) == seconds
    assert wait_of(asked, 3600, None) == (MAX_WAIT if seconds == 15 else seconds)


@pytest.fixture
def http() -> Iterator[TestClient]:
    store = MemoryEventStore()
    app = EventStreamApp(settings=Settings(stream_access="open"), store=store)
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(RunPublisher("r", store=store).workflow_complete)
        yield client


EVENTS, STREAM = "/runs/r/events", "/runs/r/events/stream"


@pytest.mark.parametrize(
    ("path", "accept", "kind"),
    [
        (EVENTS, None, "application/json"),
        (EVENTS, "text/event-stream", "text/event-stream; charset=utf-8"),
        (STREAM, None, "text/event-stream; charset=utf-8"),
        (STREAM, "application/json", "application/json"),
        (STREAM, BROWSER, "text/event-stream; charset=utf-8"),
    ],
)
def test_both_addresses_give_both_forms_and_say_that_they_vary(
    http: TestClient, path: str, accept: str | None, kind: str
) -> None:
    headers = {} if accept is None else {"accept": accept}
    for method in ("GET", "HEAD"):
        answer = http.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.headers["vary"] == "Accept"
    refused = http.get(path.replace("/r/", "/absent/") + "?wait=0", headers=headers)
    assert (refused.status_code, refused.headers["vary"]) == (404, "Accept")


def test_several_accept_headers_are_one(http: TestClient) -> None:
    answer = http.get(EVENTS, headers=[("accept", "image/png"), ("accept", "text/event-stream")])
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_listed_origin_is_told_of_both_reasons_to_vary() -> None:
    friend = "https://friend.example"
    settings = Settings(stream_access="open", stream_allowed_origins=(friend,))
    with TestClient(EventStreamApp(settings=settings, store=MemoryEventStore())) as client:
        answer = client.get(EVENTS, headers={"origin": friend})
        assert {each.strip() for each in answer.headers["vary"].split(",")} == {"Accept", "Origin"}
        answer = client.options(
            EVENTS,
            headers={
                "origin": friend,
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type, idempotency-key, authorization",
            },
        )
        assert answer.status_code == 200
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-credentials"] == "true"
