"""An application's own event streams, recorded as they pass, and resumed without calling it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import TYPE_CHECKING, Any

import pytest
from httpx_sse._decoders import SSEDecoder
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route
from tests.streams.asgi import Call, taking
from tests.streams.capture.calls import (
    Browser,
    Feed,
    captured,
    events_of,
    headers_of,
    last_id,
    settings_of,
)
from tests.streams.clients import until
from tests.streams.redis_stores import at_rest, opened

from holdfast import EventStreamApp, RunResponse, Settings, request_stop
from holdfast.streams.capture.aside import Aside
from holdfast.streams.capture.ids import Place
from holdfast.streams.capture.middleware import StreamCaptureMiddleware
from holdfast.streams.capture.resuming import open_at
from holdfast.streams.cursor import Cursor
from holdfast.streams.doors.opening import Opening
from holdfast.streams.doors.sse import is_captured
from holdfast.streams.event import EventId
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.publishing import runs
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.store import Entry, RunInfo
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from holdfast.streams.store import EventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio


async def test_the_answer_passes_as_it_is_but_for_its_ids(browser: Browser, feed: Feed) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("event: token\ndata: one\ndata: two\n\n", 'data: {"n": 1.0}\n\n')
        await until(lambda: len(events_of(call.text)) == 2)
        feed.say(None)
        await call.ended()
    assert [each[:2] for each in events_of(call.text)] == [
        ("token", "one\ntwo"),
        ("message", '{"n": 1.0}'),
    ]
    assert call.complete
    assert headers_of(call)["content-type"] == "text/event-stream"


async def test_who_comes_back_gets_the_rest_and_the_app_is_not_called_again(
    browser: Browser, feed: Feed
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n", "data: 2\n\n")
        await until(lambda: len(events_of(call.text)) == 2)
    feed.say("data: 3\n\n")
    async with browser.get(last=last_id(call.text)) as again:
        await until(lambda: len(events_of(again.text)) == 1)
        feed.say("data: 4\n\n", None)
        await again.ended()
    assert [each.data for each in events_of(again.text)] == ["3", "4"]
    assert len(feed.calls) == 1
    assert feed.ended == [None]


async def test_it_goes_on_when_the_client_leaves(
    browser: Browser, feed: Feed, store: EventStore
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
    feed.say("data: 1\n\n", None)
    run_id = headers_of(call)["holdfast-run"]
    await until(lambda: feed.ended == [None])
    await ended(store, run_id)
    assert [(each.type, each.data) for each in await store.get_events(run_id)] == [
        ("message", 1),
        ("workflow_complete", {"output": None}),
    ]


async def ended(store: EventStore, run_id: str) -> None:
    async with asyncio.timeout(10):
        while await store.status(run_id) != "ended":
            await asyncio.sleep(0.01)


async def test_who_has_all_of_it_is_told_that_nothing_follows(browser: Browser, feed: Feed) -> None:
    feed.script("data: 1\n\n", None)
    async with browser.get() as call:
        await call.ended()
    async with browser.get(last=last_id(call.text)) as again:
        await again.ended()
    assert again.status == 204
    assert len(feed.calls) == 1


async def test_who_missed_the_end_alone_is_told_so_at_once(browser: Browser, feed: Feed) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n")
        await until(lambda: events_of(call.text))
        had = last_id(call.text)
        feed.say(None)
        await call.ended()
    # An id of its own for the end would be a block without data: an event, to some programs.
    assert last_id(call.text) == had
    async with browser.get(last=had) as again:
        await again.ended()
    assert again.status == 204


async def test_who_waits_for_the_end_alone_comes_back_to_it_once(
    browser: Browser, feed: Feed
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n")
        await until(lambda: events_of(call.text))
    async with browser.get(last=last_id(call.text)) as again:
        await until(lambda: again.status)
        feed.say(None)
        await again.ended()
    assert (again.status, events_of(again.text)) == (200, [])
    async with browser.get(last=last_id(again.text)) as third:
        await third.ended()
    assert third.status == 204


async def test_who_has_all_of_it_waits_for_no_keep_alive(feed: Feed, store: EventStore) -> None:
    browser = Browser(captured(feed, store, stream_heartbeat=3600))
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n")
        await until(lambda: events_of(call.text))
        async with browser.get(last=last_id(call.text)) as again:
            await until(lambda: again.status)
            feed.say("data: 2\n\n")
            await until(lambda: events_of(call.text)[1:] and events_of(again.text))
            feed.say(None)
            await call.ended()
            await again.ended()


async def test_an_answer_without_an_event_is_over_as_well(browser: Browser, feed: Feed) -> None:
    feed.script(None)
    async with browser.get() as call:
        await call.ended()
    async with browser.get(last=last_id(call.text)) as again:
        await again.ended()
    assert again.status == 204
    assert len(feed.calls) == 1


async def test_programs_that_keep_the_last_id_read_no_event_that_is_none(
    browser: Browser, feed: Feed
) -> None:
    """As those of OpenAI and httpx-sse, to which a blank line ends an event if there is an id."""
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n", ": app\n\n")
        await until(lambda: ": app\n" in call.text and ":\n" in call.text.partition("data: 1")[2])
        feed.say("data: 2\n\n", "event: done\n\n", None)
        await call.ended()
    decoder = SSEDecoder()
    found = [decoder.decode(line) for line in call.text.splitlines()]
    said = [(each.event, each.data) for each in found if each is not None]
    assert said == [("message", "1"), ("message", "2"), ("done", "")]


async def test_what_the_app_raises_is_raised_to_the_server(browser: Browser, feed: Feed) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("id: a\ndata: 1\n\n", ZeroDivisionError("here"))
        await until(call.task.done)
        with pytest.raises(ZeroDivisionError):
            call.task.result()
        assert not call.complete
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    assert [each.data for each in events_of(call.text)] == ["1"]


async def test_an_answer_that_broke_off_is_begun_again_where_the_app_left_off(
    browser: Browser, feed: Feed
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("id: seven\ndata: 1\n\n")
        await until(lambda: events_of(call.text))
    feed.say(ZeroDivisionError("here"))
    await until(lambda: len(feed.ended) == 1)
    async with browser.get(last=last_id(call.text)) as again:
        await until(lambda: again.status)
        feed.say(None)
        await again.ended()
    assert len(feed.calls) == 2
    assert feed.last_event_id() == "seven"


async def test_what_an_app_raised_is_for_the_log_and_its_class_for_the_run(
    browser: Browser, feed: Feed, store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    feed.script("data: 1\n\n", ZeroDivisionError("a password"))
    async with browser.get() as call:
        with pytest.raises(ZeroDivisionError):
            await call.ended()
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    run_id = headers_of(call)["holdfast-run"]
    await ended(store, run_id)
    (*_, end) = await store.get_events(run_id)
    said = {"type": "RuntimeError", "message": "the application raised ZeroDivisionError"}
    assert (end.type, end.data) == ("workflow_error", {"error": said})
    await until(lambda: "a password" in caplog.text)


async def test_an_app_that_does_not_complete_its_answer_has_broken_it_off(
    store: EventStore,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})

    async with Browser(captured(app, store)).get() as call:
        await call.ended()
    assert not call.complete
    run_id = headers_of(call)["holdfast-run"]
    await ended(store, run_id)
    assert [each.type for each in await store.get_events(run_id)] == ["message", "workflow_error"]


async def test_an_id_that_is_not_ours_is_the_apps(browser: Browser, feed: Feed) -> None:
    feed.script("data: 1\n\n", None)
    async with browser.get(last="41") as call:
        await call.ended()
    assert feed.last_event_id() == "41"


async def test_an_app_never_sees_an_id_of_ours(browser: Browser, feed: Feed) -> None:
    feed.script("data: 1\n\n", None)
    async with browser.get(last="hf1/made/up/by/me") as call:
        await call.ended()
    assert feed.last_event_id() is None


async def test_every_post_calls_the_app(browser: Browser, feed: Feed) -> None:
    feed.script("data: 1\n\n", None)
    async with browser.get() as known:
        await known.ended()
    async with browser.get(method="POST") as call:
        await call.ended()
    async with browser.get(method="POST", last=last_id(call.text)) as again:
        await again.ended()
    assert len(feed.calls) == 3
    first, second = headers_of(call), headers_of(again)
    assert first["holdfast-run"] != second["holdfast-run"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_an_app_that_resumes_a_post_by_itself_is_told_its_own_id(
    browser: Browser, feed: Feed, method: str
) -> None:
    feed.script("id: own\ndata: 1\n\n", None)
    async with browser.get(method=method) as call:
        await call.ended()
    assert set(browser.cookies) == {"holdfast_capture"}
    async with browser.get(method=method, last=last_id(call.text)) as again:
        await again.ended()
    assert len(feed.calls) == 2
    assert feed.last_event_id() == "own"
    stranger = Browser(browser._app)
    async with stranger.get(method=method, last=last_id(call.text)) as other:
        await other.ended()
    assert feed.last_event_id() is None


async def test_the_run_is_named_for_programs_and_opens_nothing(
    browser: Browser, feed: Feed, store: EventStore
) -> None:
    feed.script("data: 1\n\n", None)
    async with browser.get() as call:
        await call.ended()
    named = headers_of(call)
    run_id = named["holdfast-run"]
    assert named["link"] == (
        f'</streams/runs/{run_id}/events/stream>; rel="alternate"; type="text/event-stream"'
    )
    streams = EventStreamApp(settings=settings_of(), store=store)
    async with Call(streams, f"/runs/{run_id}/events/stream") as reading:
        await reading.ended()
    assert reading.status == 401


async def test_a_program_goes_on_at_the_sub_app_with_the_id_that_it_has(
    browser: Browser, feed: Feed, store: EventStore
) -> None:
    feed.script('data: {"n": 1}\n\n', 'data: {"n": 2}\n\n', None)
    async with browser.get(method="POST") as call:
        await call.ended()
    run_id, had = headers_of(call)["holdfast-run"], events_of(call.text)[0].id
    streams = EventStreamApp(settings=settings_of(stream_access="open"), store=store)
    path = f"/runs/{run_id}/events/stream"
    async with Call(streams, path, headers={"last-event-id": had}) as reading:
        await reading.ended()
    assert reading.events == [("message", {"n": 2}), ("workflow_complete", {"output": None})]


async def test_a_stop_ends_the_app_and_the_stream(
    browser: Browser, feed: Feed, store: EventStore
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n")
        await until(lambda: events_of(call.text))
        await request_stop(headers_of(call)["holdfast-run"], store=store)
        await call.ended()
    assert isinstance(feed.ended[0], asyncio.CancelledError)
    async with browser.get(last=last_id(call.text)) as again:
        await again.ended()
    assert again.status == 204


def as_it_is(app: ASGIApp) -> ASGIApp:
    return app


def in_capitals(app: ASGIApp) -> ASGIApp:
    """*app* with the names of its headers as Django sends them: not as ASGI has them."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if "headers" in message:
                named = [(name.title(), value) for name, value in message["headers"]]
                message = {**message, "headers": named}
            await send(message)

        await app(scope, receive, sending)

    return serve


@pytest.mark.parametrize("written", [as_it_is, in_capitals])
async def test_what_is_personal_is_not_said_again(
    store: EventStore, written: Callable[[ASGIApp], ASGIApp]
) -> None:
    feed = Feed(
        headers=[
            (b"set-cookie", b"secret=1"),
            (b"x-user", b"ada"),
            (b"access-control-allow-origin", b"https://page.test"),
            (b"content-length", b"12"),
        ]
    )
    browser = Browser(captured(written(feed), store))
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n")
        await until(lambda: events_of(call.text))
    first = headers_of(call)
    assert first["x-user"] == "ada"
    assert browser.cookies["secret"] == "1"
    assert "content-length" not in first
    async with browser.get(last=last_id(call.text)) as again:
        await until(lambda: again.status)
        feed.say(None)
        await again.ended()
    assert headers_of(again) == {
        "content-type": "text/event-stream",
        "access-control-allow-origin": "https://page.test",
        "access-control-expose-headers": "Holdfast-Run, Link",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
        "holdfast-run": first["holdfast-run"],
        "link": first["link"],
    }


async def test_comments_and_reconnection_times_pass(
    browser: Browser, feed: Feed, store: EventStore
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say(": here\n\n", "retry: 3000\n\n", "data: 1\n\n", "data: 2\n\n")
        await until(lambda: ": here\n" in call.text and len(events_of(call.text)) == 2)
    assert "retry: 3000\n" in call.text
    feed.say(None)
    await until(lambda: feed.ended == [None])
    run_id = headers_of(call)["holdfast-run"]
    first = (await store.get_events(run_id))[0]
    assert first.data == {"holdfast": {"retry": 3000}, "data": 1}


async def test_an_event_without_its_blank_line_still_reaches_the_client(
    browser: Browser, feed: Feed
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: [DONE]\n", None)
        await call.ended()
    assert call.text.endswith("data: [DONE]\n")


async def test_chunks_end_anywhere(browser: Browser, feed: Feed) -> None:
    text = "\ufeffevent: grüße\r\ndata: €\rdata: 𝄞\n\r\ndata: x\r\n\r\n".encode()
    feed.script(*(text[at : at + 1] for at in range(len(text))), None)
    async with browser.get() as call:
        await call.ended()
    assert [each[:2] for each in events_of(call.text)] == [("grüße", "€\n𝄞"), ("message", "x")]


async def test_a_large_event_passes_whole(browser: Browser, feed: Feed) -> None:
    data = "x" * 1_000_000
    feed.script(f"data: {data}\n\n", None)
    async with browser.get() as call:
        await call.ended()
    assert [each.data for each in events_of(call.text)] == [data]


async def test_what_cannot_be_recorded_still_reaches_the_client(
    feed: Feed, store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.max_event_bytes = 1000
    data = "x" * 2000
    browser = Browser(captured(feed, store))
    feed.script("id: a\ndata: 1\n\n", f"id: b\ndata: {data}\n\n", "id: c\ndata: 3\n\n", None)
    async with browser.get() as call:
        await call.ended()
    assert [each.data for each in events_of(call.text)] == ["1", data, "3"]
    assert [each.id for each in events_of(call.text)][1:] == ["b", "c"]
    assert call.complete
    run_id = headers_of(call)["holdfast-run"]
    await ended(store, run_id)
    assert (await store.get_events(run_id))[-1].type == "workflow_error"
    assert "can be recorded no further" in caplog.text


async def test_an_event_that_never_ends_is_passed_on(
    feed: Feed, store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.max_event_bytes = 1000
    browser = Browser(captured(feed, store))
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n", *["data: " + "€" * 600 + "\n"] * 3)
        await until(lambda: call.text.count("€") == 1800)
        feed.say("\n", None)
        await call.ended()
    assert events_of(call.text)[1].data == "\n".join(["€" * 600] * 3)
    assert "can be recorded no further" in caplog.text


async def test_an_app_that_goes_on_after_its_end_fills_no_memory(store: EventStore) -> None:
    more, over = asyncio.Event(), asyncio.Event()

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}
        await send(body)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await more.wait()
        for _ in range(100):
            await send(body)
        over.set()

    app = captured(stubborn, store)
    async with Browser(app).get() as call:
        await until(lambda: events_of(call.text))
        (recording,) = app._setup.here.values()  # type: ignore[union-attr]
        await request_stop(recording.run_id, store=store)
        await until(lambda: recording._over)
        more.set()
        await over.wait()
        assert not recording._inbox
        await call.ended()


async def test_a_client_that_leaves_what_cannot_be_recorded_ends_it(
    feed: Feed, store: EventStore
) -> None:
    store.max_event_bytes = 10
    browser = Browser(captured(feed, store))
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: a text of more\n\n")
        await until(lambda: events_of(call.text))
    await until(lambda: len(feed.ended) == 1)
    assert isinstance(feed.ended[0], asyncio.CancelledError)


async def test_without_a_reader_it_is_abandoned(feed: Feed, store: EventStore) -> None:
    browser = Browser(captured(feed, store, stream_capture_abandon=0.2))
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("id: a\ndata: 1\n\n")
        await until(lambda: events_of(call.text))
        await asyncio.sleep(0.5)
        assert feed.ended == []
    await until(lambda: len(feed.ended) == 1)
    assert isinstance(feed.ended[0], asyncio.CancelledError)
    run_id = headers_of(call)["holdfast-run"]
    await ended(store, run_id)
    assert (await store.get_events(run_id))[-1].type == "run_lost"


async def test_the_app_is_called_again_for_what_was_lost_with_its_process(
    browser: Browser, feed: Feed, store: EventStore
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("id: nine\ndata: 1\n\n")
        await until(lambda: events_of(call.text))
        await runs.close_runs(store)
        await call.ended()
    assert call.complete
    async with browser.get(last=last_id(call.text)) as again:
        await until(lambda: again.status)
        feed.say(None)
        await again.ended()
    assert feed.last_event_id() == "nine"


@pytest.mark.parametrize(
    ("end", "opening"),
    [
        ({"prev": EventId(2, 0), "seq": 4}, Opening.SERVE),
        ({"prev": EventId(1, 0), "seq": 4}, Opening.NOTHING_FOLLOWS),
        ({"prev": EventId(2, 0), "seq": 3}, Opening.NOTHING_FOLLOWS),
        # Of the process that found it lost, which wrote nothing else.
        ({"prev": EventId(2, 0), "seq": 1, "producer": "other"}, Opening.SERVE),
        ({"prev": None, "seq": 0, "producer": None}, Opening.SERVE),
        ({"prev": EventId(1, 0), "seq": 1, "type": "run_lost"}, Opening.ABSENT),
    ],
    ids=["more", "has all", "has seen all", "ended elsewhere", "unknown", "lost"],
)
def test_who_has_all_before_the_end_has_all(end: dict[str, Any], opening: Opening) -> None:
    info = RunInfo("ended", end=EventId(3, 0))
    place = Place("capture-a", Cursor(EventId(1, 0), {"p": 2}), "")
    entry = Entry(
        **{"id": EventId(3, 0), "type": "run_stopped", "data": b"", "producer": "p", **end}
    )
    assert open_at(info, entry, place) is opening


async def test_readers_end_when_the_process_stops(
    browser: Browser, feed: Feed, store: EventStore
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n")
        await until(lambda: events_of(call.text))
        hub_of(store).stop()
        await call.ended()
        assert call.complete
        async with browser.get(last=last_id(call.text)) as again:
            await again.ended()
        assert again.text.startswith("retry: ")


@pytest.mark.parametrize(
    ("path", "method", "status", "kind", "headers"),
    [
        ("/other", "GET", 200, b"text/event-stream", []),
        ("/feeder", "GET", 200, b"text/event-stream", []),
        ("/feed", "HEAD", 200, b"text/event-stream", []),
        ("/feed", "OPTIONS", 200, b"text/event-stream", []),
        ("/feed", "GET", 200, b"application/json", []),
        ("/feed", "GET", 200, b"text/event-streams", []),
        ("/feed", "GET", 404, b"text/event-stream", []),
        ("/feed", "GET", 204, b"text/event-stream", []),
        ("/feed", "GET", 200, b"text/event-stream", [(b"content-encoding", b"gzip")]),
        ("/feed", "GET", 200, b"text/event-stream", [(b"holdfast-run", b"of-another")]),
        ("/feed", "POST", 200, b"text/event-stream", [(b"mcp-session-id", b"of-another")]),
    ],
    ids=[
        *("other path", "half a segment", "HEAD", "OPTIONS", "json", "other type", "404", "204"),
        *("compressed", "named", "mcp"),
    ],
)
async def test_everything_else_is_left_as_it_is(
    store: EventStore,
    path: str,
    method: str,
    status: int,
    kind: bytes,
    headers: list[tuple[bytes, bytes]],
) -> None:
    feed = Feed(headers=headers)
    feed.status, feed.kind = status, kind
    feed.script(b"id: 1\r\ndata: x\r\n\r\n", None)
    for app in (feed, in_capitals(feed)):
        async with Browser(app).get(path, method=method) as bare:
            await bare.ended()
        async with Browser(captured(app, store)).get(path, method=method) as call:
            await call.ended()
        assert call.sent == bare.sent


async def test_what_the_app_raises_before_its_answer_is_its_own(store: EventStore) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    call = Browser(captured(app, store)).get()
    async with call:
        with pytest.raises(ZeroDivisionError):
            await call.ended()
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    assert call.sent == []


async def test_a_request_that_is_cancelled_before_its_answer_takes_the_app_with_it(
    store: EventStore,
) -> None:
    ends: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")

    browser = Browser(captured(app, store))
    async with browser.get() as call:
        await asyncio.sleep(0.02)
        call.task.cancel()
        await until(call.task.done)
        assert ends == ["cancelled"]
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task


async def test_the_app_gets_the_body_and_no_word_of_a_client_that_left(store: EventStore) -> None:
    heard: list[Message] = []
    known: list[bool] = []
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(await receive())
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        listening = asyncio.ensure_future(receive())
        await told.wait()
        known.append(listening.done())
        listening.cancel()
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": False})

    browser = Browser(captured(app, store))
    async with browser.get(method="POST") as call:
        await until(lambda: call.status)
    told.set()
    await ended(store, headers_of(call)["holdfast-run"])
    assert [each["type"] for each in heard] == ["http.request"]
    assert known == [False]


async def test_a_client_that_leaves_before_the_answer_is_told_to_the_app(store: EventStore) -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])

    async with Browser(captured(app, store)).get() as call:
        call.leave()
        await call.ended()
    assert heard == ["http.request", "http.disconnect"]


async def test_trailers_follow_the_answer(store: EventStore) -> None:
    last = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream"), (b"trailer", b"x-sum")],
            "trailers": True,
        }
        await send(start)
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": False})
        await send(last)

    async with Browser(captured(app, store)).get() as call:
        await call.ended()
    assert call.sent[0]["trailers"] is True
    assert call.sent[-1] == last
    assert call.sent[-2]["more_body"] is False


async def test_what_an_app_does_after_its_answer_belongs_to_the_request(store: EventStore) -> None:
    done: list[int] = []

    async def later() -> None:
        await asyncio.sleep(0.05)
        done.append(1)

    async def answer(request: Request) -> Response:
        stream = iter(["data: 1\n\n"])
        return StreamingResponse(
            stream, media_type="text/event-stream", background=BackgroundTask(later)
        )

    app = Starlette(routes=[Route("/feed", answer)])
    async with Browser(captured(app, store)).get() as call:
        await call.ended()
    assert done == [1]
    assert [each.data for each in events_of(call.text)] == ["1"]


async def test_streams_of_our_own_are_left_alone(store: EventStore) -> None:
    async def source() -> AsyncIterator[str]:
        yield "hello"

    async def answer(request: Request) -> Response:
        return RunResponse("r", source(), store=store, settings=settings_of())

    streams = EventStreamApp(settings=settings_of(stream_access="open"), store=store)
    app = Starlette(routes=[Route("/feed", answer), Mount("/other", streams)])
    browser = Browser(captured(app, store, stream_capture="/"))
    async with browser.get() as call:
        await call.ended()
    async with browser.get("/other/runs/r/events/stream") as run:
        await run.ended()
    async with browser.get("/other/events/stream?run=r") as many:
        await many.ended()
    for each in (call, run, many):
        assert each.events[0][0] == "message"
        assert "holdfast-run" not in headers_of(each)


async def test_who_stands_around_may_look_into_the_scope_afterwards(store: EventStore) -> None:
    scopes: list[Scope] = []

    async def answer(request: Request) -> Response:
        return StreamingResponse(iter(["data: 1\n\n"]), media_type="text/event-stream")

    inner = captured(Starlette(routes=[Mount("/feed", routes=[Route("/x", answer)])]), store)

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)
        scopes.append(scope)

    async with Browser(around).get("/feed/x") as call:
        await call.ended()
    assert scopes[0]["endpoint"] is answer
    assert headers_of(call)["link"].startswith("</streams/runs/")


@pytest.mark.parametrize(("kind", "is_recorded"), [(b"text/event-stream", True), (b"a/b", False)])
async def test_an_app_may_copy_its_scope_and_learn_whether_its_answer_is_captured(
    store: EventStore, kind: bytes, is_recorded: bool
) -> None:
    """As hypercorn's ProxyFixMiddleware copies it, with all that is in it."""
    told: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope = copy.deepcopy(scope)
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        told.append(is_captured(scope))
        await send({"type": "http.response.body", "body": b"data: 1\n\n"})

    async with Browser(captured(app, store)).get() as call:
        await call.ended()
    assert told == [is_recorded]
    assert ("holdfast-run" in headers_of(call)) is is_recorded


async def test_a_server_is_not_asked_to_send_a_file_past_us(store: EventStore, feed: Feed) -> None:
    feed.script("data: 1\n\n", None)
    call = Browser(captured(feed, store)).get()
    call._scope["extensions"] = {"http.response.pathsend": {}, "tls": {}}
    async with call:
        await call.ended()
    assert feed.calls[0]["extensions"] == {"tls": {}}


async def test_twice_around_an_app_captures_once(store: EventStore, feed: Feed) -> None:
    feed.script("data: 1\n\n", None)
    browser = Browser(captured(captured(feed, store), store))
    async with browser.get() as call:
        await call.ended()
    assert [name for name, _ in call.sent[0]["headers"]].count(b"holdfast-run") == 1


async def test_one_reader_too_many_is_served_by_the_app_alone(
    feed: Feed, store: EventStore
) -> None:
    feed.script("id: own\ndata: 1\n\n", None)
    browser = Browser(captured(feed, store, stream_max_subscribers=1))
    async with Subscription(hub_of(store), "another", Cursor()), browser.get() as call:
        await call.ended()
    assert events_of(call.text) == [("message", "1", "own")]
    assert "holdfast-run" not in headers_of(call)


async def test_a_client_that_takes_nothing_does_not_keep_the_app(
    feed: Feed, store: EventStore
) -> None:
    feed.script(*[f"data: {'x' * 1000}\n\n"] * 200, None)
    browser = Browser(taking(captured(feed, store), 3))
    async with browser.get() as call:
        await until(lambda: feed.ended == [None])
        call.task.cancel()
        await until(call.task.done)
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task


async def test_a_client_misses_nothing_of_an_app_that_says_more_than_the_log_keeps(
    feed: Feed, redis: RedisServer, key_prefix: str
) -> None:
    # More than the ring of the process keeps too.
    said = [f"{number} {'x' * 1000}" for number in range(3000)]
    feed.script("".join(f"data: {each}\n\n" for each in said), None)
    async with opened(redis.url, key_prefix, stream_maxlen=100) as store, at_rest(store):
        async with Browser(captured(feed, store, stream_maxlen=100)).get() as call:
            await until(call.task.done, 30)
        run_id = headers_of(call)["holdfast-run"]
        kept = (await store.describe(run_id)).length
    assert [each.data for each in events_of(call.text)] == said
    assert kept < 500


@pytest.mark.parametrize("limit", ["stream_maxlen", "stream_max_run_bytes"])
async def test_a_client_that_takes_nothing_keeps_the_app_while_it_is_there(
    feed: Feed, store: EventStore, limit: str
) -> None:
    feed.script("".join(f"data: {number}\n\n" for number in range(5000)), "data: x\n\n", None)
    browser = Browser(taking(captured(feed, store, **{limit: 1000}), 3))
    async with browser.get() as call:
        await until(lambda: call.status)
        run_id = headers_of(call)["holdfast-run"]
        await until_quiet(store, run_id)
        assert (await store.describe(run_id)).n < 4000
        call.task.cancel()
        await until(lambda: feed.ended == [None])
        await ended(store, run_id)
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    assert (await store.describe(run_id)).n == 5002


async def test_a_client_that_read_what_an_outage_held_back_keeps_the_app_no_longer() -> None:
    aside = Aside(events=1)
    held_back = Entry(EventId(1, 0), "message", b"1", producer="p", seq=1, provisional=True)
    aside.recorded([held_back, held_back._replace(seq=2)])
    waiting = asyncio.create_task(aside.in_reach())
    # It is stored by now, and was read by an id that nobody told the recording.
    aside.reached(Cursor(EventId(2, 0)))
    await asyncio.sleep(0)
    assert not waiting.done()
    aside.caught_up()
    await asyncio.wait_for(waiting, 10)


async def until_quiet(store: EventStore, run_id: str) -> None:
    """Wait until nothing more is written, for a while."""
    known = -1
    while (told := (await store.describe(run_id)).n) != known:
        known = told
        await asyncio.sleep(0.05)


async def test_events_that_are_kept_nowhere_have_the_apps_own_ids(feed: Feed) -> None:
    store = MemoryEventStore(enabled=False)
    feed.script("id: own\ndata: 1\n\n", None)
    async with Browser(captured(feed, store)).get() as call:
        await call.ended()
    assert events_of(call.text) == [("message", "1", "own")]
    await close_hubs(store)


async def test_comments_behind_events_that_are_kept_nowhere_pass(feed: Feed) -> None:
    store = MemoryEventStore(enabled=False)
    async with Browser(captured(feed, store)).get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n: behind\n\n")
        await until(lambda: ": behind\n" in call.text)
        feed.say(None)
        await call.ended()
    await close_hubs(store)


async def test_an_event_by_the_name_of_an_end_ends_nothing(browser: Browser, feed: Feed) -> None:
    feed.script("event: workflow_complete\ndata: {}\n\n", "event: run_lost\ndata: 2\n\n", None)
    async with browser.get() as call:
        await call.ended()
    assert [each[:2] for each in events_of(call.text)] == [
        ("workflow_complete", "{}"),
        ("run_lost", "2"),
    ]


async def test_a_lifespan_is_the_apps(store: EventStore) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: object) -> None: ...

    await captured(app, store)({"type": "lifespan"}, nothing, nothing)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


async def test_without_a_key_for_redis_every_request_is_refused(feed: Feed) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1", stream_capture="/feed")
    async with Browser(StreamCaptureMiddleware(feed, settings=settings)).get() as call:
        await call.ended()
    assert call.status == 503
    assert feed.calls == []


async def test_an_answer_that_is_refused_on_its_way_out_cancels_the_app(
    feed: Feed, store: EventStore
) -> None:
    inner = captured(feed, store)

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            raise LookupError

        await inner(scope, receive, sending)

    async with Browser(around).get() as call:
        with pytest.raises(LookupError):
            await call.ended()
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    assert isinstance(feed.ended[0], asyncio.CancelledError)


async def test_a_client_that_is_gone_when_the_answer_begins_does_not_end_it(
    feed: Feed, store: EventStore
) -> None:
    inner = captured(feed, store)
    feed.script("data: 1\n\n", None)

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            raise OSError

        await inner(scope, receive, sending)

    async with Browser(around).get() as call:
        with pytest.raises(OSError, match=r"^$"):
            await call.ended()
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    await until(lambda: feed.ended == [None])


async def test_events_that_are_no_longer_kept_are_told_as_a_gap(feed: Feed) -> None:
    store = MemoryEventStore(maxlen=2)
    browser = Browser(captured(feed, store))
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n")
        await until(lambda: events_of(call.text))
    feed.say(*[f"data: {number}\n\n" for number in range(2, 300)], None)
    await until(lambda: feed.ended == [None])
    async with browser.get(last=last_id(call.text)) as again:
        await again.ended()
    assert events_of(again.text)[0].kind == "holdfast.gap"
    await close_hubs(store)


async def test_a_client_holds_up_what_is_not_recorded(feed: Feed, store: EventStore) -> None:
    store.max_event_bytes = 10
    feed.script(*[f"data: {'x' * 10_000}\n\n"] * 100, None)
    browser = Browser(taking(captured(feed, store), 2))
    async with browser.get() as call:
        await until(lambda: "x" in call.text)
        await asyncio.sleep(0.1)
        assert feed.ended == []
        call.task.cancel()
        await until(lambda: feed.ended)
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    assert isinstance(feed.ended[0], asyncio.CancelledError)


async def test_a_request_that_is_cancelled_leaves_the_app_to_go_on(
    browser: Browser, feed: Feed
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        call.task.cancel()
        await until(call.task.done)
        call.task = asyncio.create_task(asyncio.sleep(0))
        await call.task
    feed.say("data: 1\n\n", None)
    await until(lambda: feed.ended == [None])
