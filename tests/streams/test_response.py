"""An endpoint that answers with a run: resumable, owned, and served as the sub-app serves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route
from tests.streams.asgi import Call
from tests.streams.clients import until
from tests.streams.redis_stores import at_rest, opened

import holdfast
from holdfast import EventStreamApp, RunPublisher, RunResponse, SessionMiddleware, Settings
from holdfast.errors import InvalidEvent
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from holdfast.streams.store import EventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
SETTINGS = Settings(stream_heartbeat=0.05, secret_key="a-key-of-sixteen-characters-or-more")


class Source:
    """Events that a test lets go one by one; it counts how often it was used and closed."""

    def __init__(self) -> None:
        self.used = self.closed = 0
        self.items: asyncio.Queue[Any] = asyncio.Queue()

    def say(self, *items: Any) -> None:
        for item in items:
            self.items.put_nowait(item)

    def __aiter__(self) -> Source:
        self.used += 1
        return self

    async def __anext__(self) -> Any:
        item = await self.items.get()
        if item is StopAsyncIteration:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        self.closed += 1


@pytest.fixture
async def store() -> AsyncIterator[MemoryEventStore]:
    made = MemoryEventStore()
    async with at_rest(made):
        yield made


@pytest.fixture
def source() -> Source:
    return Source()


def app_of(store: EventStore, source: Source, **options: Any) -> Starlette:
    options.setdefault("settings", SETTINGS)

    async def answer(request: Request) -> Response:
        return RunResponse(request.path_params["run"], source, store=store, **options)

    return Starlette(routes=[Route("/{run}", answer, methods=["GET", "POST"])])


async def test_it_begins_a_run_and_streams_it(store: MemoryEventStore, source: Source) -> None:
    async with Call(app_of(store, source), "/r") as call:
        source.say("hello", ("token", {"n": 1}))
        await until(lambda: len(call.events) == 2)
        source.say(StopAsyncIteration)
        await call.ended()
    assert call.status == 200
    assert call.events == [
        ("message", "hello"),
        ("token", {"n": 1}),
        ("workflow_complete", {"output": None}),
    ]
    ids = [event.id for event in await store.get_events("r")]
    assert [line for line in call.text.split("\n") if line.startswith("id:")] == [
        f"id: {each}" for each in ids
    ]
    assert call.text.startswith("retry: ")
    assert call.complete


async def test_it_is_held_with_heartbeats_until_there_is_an_event(
    store: MemoryEventStore, source: Source
) -> None:
    async with Call(app_of(store, source), "/r") as call:
        await until(lambda: call.text.count("\n:\n") >= 2)
    assert call.events == []


async def test_who_waits_for_the_run_hears_that_it_begins(
    store: MemoryEventStore, source: Source
) -> None:
    reading = EventStreamApp(settings=Settings(stream_access="open", stream_wait=30), store=store)
    async with Call(reading, "/runs/r/events/stream") as early:
        await asyncio.sleep(0.05)
        assert early.status is None
        async with Call(app_of(store, source), "/r"):
            await until(lambda: early.status == 200)
    assert early.events == []


async def test_the_run_goes_on_without_its_client_and_is_joined_again(
    store: MemoryEventStore, source: Source
) -> None:
    app = app_of(store, source)
    async with Call(app, "/r") as call:
        source.say(("t", 1))
        await until(lambda: len(call.events) == 1)
    source.say(("t", 2))
    async with Call(app, "/r") as again:
        await until(lambda: len(again.events) == 2)
        (first, second) = await store.get_events("r")
        async with Call(app, "/r", headers={"last-event-id": first.id}) as resumed:
            await until(lambda: len(resumed.events) == 1)
            source.say(("t", 3))
            await until(lambda: len(resumed.events) == 2)
        async with Call(app, f"/r?last_id={second.id}&envelope=1") as wrapped:
            await until(lambda: len(wrapped.events) == 1)
        source.say(StopAsyncIteration)
        await again.ended()
    assert [data for _, data in again.events[:3]] == [1, 2, 3]
    assert [data for _, data in resumed.events] == [2, 3]
    assert wrapped.events[0][1]["data"] == 3
    assert source.used == 1
    # Closed once for each request that did not need it, and once at its end.
    assert source.closed == 4


async def test_what_is_over_is_served_and_then_nothing_follows(
    store: MemoryEventStore, source: Source
) -> None:
    end = await store.add("r", "workflow_complete", 1)
    app = app_of(store, source)
    async with Call(app, "/r") as call:
        await call.ended()
    assert call.events == [("workflow_complete", 1)]
    async with Call(app, "/r", headers={"last-event-id": end.id}) as past:
        await past.ended()
    assert past.status == 204
    await store.set_expire("r", -1)
    async with Call(app, "/r") as expired:
        await expired.ended()
    assert expired.status == 410
    assert "RUN_EXPIRED" in expired.text
    assert (source.used, source.closed) == (0, 3)


async def test_a_stop_ends_the_stream(store: MemoryEventStore, source: Source) -> None:
    async with Call(app_of(store, source), "/r") as call:
        source.say(("t", 1))
        await until(lambda: len(call.events) == 1)
        assert await holdfast.request_stop("r", store=store) == "requested"
        await call.ended()
    assert call.events[-1] == ("run_stopped", {})


async def test_a_request_that_is_wrong_begins_nothing(
    store: MemoryEventStore, source: Source
) -> None:
    app = app_of(store, source)
    for path, headers, status, code in (
        ("/r", {"last-event-id": "nonsense"}, 400, "INVALID_ID"),
        ("/r%7Bx%7D", {}, 400, "INVALID_RUN_ID"),
    ):
        async with Call(app, path, headers=headers) as call:
            # Starlette routes by the decoded path.
            call._scope["path"] = path.replace("%7B", "{").replace("%7D", "}")
            await call.ended()
        assert call.status == status
        assert code in call.text
    assert (source.used, source.closed) == (0, 2)
    assert await store.status("r") == "absent"


async def test_a_head_request_begins_nothing(store: MemoryEventStore, source: Source) -> None:
    app = app_of(store, source)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        async with asyncio.timeout(5):
            answer = await http.head("/r")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.content, source.used, source.closed) == (b"", 0, 1)
    assert await store.status("r") == "absent"


async def test_a_full_process_begins_nothing(store: MemoryEventStore, source: Source) -> None:
    settings = Settings(stream_max_subscribers=1)
    app = app_of(store, source, settings=settings)
    async with Call(app, "/r") as call:
        await until(lambda: call.status == 200)
        async with Call(app, "/other") as refused:
            await refused.ended()
    assert refused.status == 200
    assert refused.text.startswith("retry: ")
    assert await store.status("other") == "absent"


async def test_a_process_that_stops_begins_nothing(store: MemoryEventStore, source: Source) -> None:
    hub_of(store).stop()
    async with Call(app_of(store, source), "/r") as call:
        await call.ended()
    assert call.text.startswith("retry: ")
    assert await store.status("r") == "absent"


async def test_it_carries_headers_cookies_and_a_task_of_the_endpoint(
    store: MemoryEventStore, source: Source
) -> None:
    done: list[int] = []
    source.say(StopAsyncIteration)

    async def answer(request: Request) -> Response:
        response = RunResponse(
            "r",
            source,
            headers={"x-more": "1"},
            background=BackgroundTask(done.append, 1),
            store=store,
            settings=SETTINGS,
        )
        response.set_cookie("seen", "yes")
        return response

    app = Starlette(routes=[Route("/", answer)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        got = await http.get("/")
    assert got.headers["x-more"] == "1"
    assert got.cookies["seen"] == "yes"
    assert got.headers.get_list("content-type") == ["text/event-stream; charset=utf-8"]
    assert "content-length" not in got.headers
    assert got.headers["cache-control"] == "no-store, no-transform"
    assert done == [1]


async def test_text_of_an_event_stream_is_read(store: MemoryEventStore, source: Source) -> None:
    source.say("event: a\ndata: [1", "]\n\n", StopAsyncIteration)
    async with Call(app_of(store, source, media_type="text/event-stream"), "/r") as call:
        await call.ended()
    assert call.events[0] == ("a", [1])


async def test_what_can_never_be_is_told_to_the_endpoint(source: Source) -> None:
    with pytest.raises(TypeError):
        RunResponse("r", "text")  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent):
        RunResponse("r", source, owner="me")


async def test_with_the_default_store_aclose_ends_run_and_stream(source: Source) -> None:
    async def answer(request: Request) -> Response:
        return RunResponse("r", source)

    async with Call(Starlette(routes=[Route("/r", answer)]), "/r") as call:
        source.say(("t", 1))
        await until(lambda: len(call.events) == 1)
        await holdfast.aclose()
        await call.ended()
    assert call.events == [("t", 1), ("run_lost", {})]


class TestOwners:
    @pytest.fixture
    def app(self, store: MemoryEventStore, source: Source) -> Starlette:
        async def login(request: Request) -> Response:
            request.session["user_id"] = request.path_params["name"]
            return Response()

        async def visit(request: Request) -> Response:
            request.session["seen"] = 1
            return Response()

        async def answer(request: Request) -> Response:
            return RunResponse(request.path_params["run"], source, store=store, settings=SETTINGS)

        return Starlette(
            routes=[
                Route("/login/{name}", login, methods=["POST"]),
                Route("/visit", visit, methods=["POST"]),
                Route("/run/{run}", answer),
            ],
            middleware=[Middleware(SessionMiddleware, settings=SETTINGS)],
        )

    @pytest.fixture
    async def browsers(self, app: Starlette) -> AsyncIterator[Callable[[], httpx.AsyncClient]]:
        made: list[httpx.AsyncClient] = []

        def make() -> httpx.AsyncClient:
            made.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t"))
            return made[-1]

        yield make
        for each in made:
            await each.aclose()

    async def test_a_run_is_its_users(
        self,
        store: MemoryEventStore,
        source: Source,
        browsers: Callable[[], httpx.AsyncClient],
    ) -> None:
        source.say(StopAsyncIteration)
        mine, also_mine, theirs, nobodys = browsers(), browsers(), browsers(), browsers()
        for browser, name in ((mine, "ann"), (also_mine, "ann"), (theirs, "bob")):
            await browser.post(f"/login/{name}")
        assert (await mine.get("/run/r")).status_code == 200
        assert (await store.describe("r")).owner == "user:ann"
        assert (await also_mine.get("/run/r")).status_code == 200
        for browser in (theirs, nobodys):
            refused = await browser.get("/run/r")
            assert refused.status_code == 403
            assert refused.json()["code"] == "RUN_NOT_YOURS"
        assert source.used == 1

    async def test_a_run_of_a_session_stays_its_own_after_the_login(
        self,
        store: MemoryEventStore,
        source: Source,
        browsers: Callable[[], httpx.AsyncClient],
    ) -> None:
        source.say(StopAsyncIteration)
        mine, theirs = browsers(), browsers()
        await mine.post("/visit")
        await theirs.post("/visit")
        assert (await mine.get("/run/r")).status_code == 200
        owner = (await store.describe("r")).owner
        assert owner is not None
        assert owner.startswith("session:")
        await mine.post("/login/ann")
        assert (await mine.get("/run/r")).status_code == 200
        assert (await theirs.get("/run/r")).status_code == 403

    async def test_without_anything_to_own_with_it_is_nobodys(
        self,
        store: MemoryEventStore,
        source: Source,
        browsers: Callable[[], httpx.AsyncClient],
    ) -> None:
        source.say(StopAsyncIteration)
        assert (await browsers().get("/run/r")).status_code == 200
        assert (await store.describe("r")).owner is None
        other = browsers()
        await other.post("/login/bob")
        assert (await other.get("/run/r")).status_code == 200

    async def test_a_foreign_kind_of_session_owns_nothing(
        self, store: MemoryEventStore, source: Source
    ) -> None:
        source.say(StopAsyncIteration)
        app = app_of(store, source)

        async def with_session(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "session": {"user_id": "ann"}}, receive, send)

        async with Call(with_session, "/r") as call:
            await call.ended()
        assert (await store.describe("r")).owner is None

    async def test_an_owner_can_be_given(self, store: MemoryEventStore, source: Source) -> None:
        async with Call(app_of(store, source, owner="user:ann"), "/r") as call:
            await until(lambda: call.status == 200)
        assert (await store.describe("r")).owner == "user:ann"
        for owner in ("user:bob", None):
            async with Call(app_of(store, source, owner=owner), "/r") as refused:
                await refused.ended()
            assert refused.status == 403


class TestWhileRedisIsAway:
    @pytest.mark.slow
    async def test_it_is_held_and_begins_when_redis_is_back(
        self, fresh_redis: RedisServer, key_prefix: str, source: Source
    ) -> None:
        async with opened(fresh_redis.url, key_prefix, redis_timeout=1) as store:
            await store.add("other", "t", 1)
            fresh_redis.kill()
            async with Call(app_of(store, source), "/r") as call:
                await until(lambda: ": waiting" in call.text)
                assert (call.status, source.used) == (200, 0)
                fresh_redis.start()
                await until(lambda: source.used == 1, 10)
                source.say(("t", 1), StopAsyncIteration)
                await call.ended()
            assert [kind for kind, _ in call.events] == ["t", "workflow_complete"]
            assert source.closed == 1
            await close_hubs(store)

    async def test_who_leaves_before_that_has_begun_nothing(
        self, fresh_redis: RedisServer, key_prefix: str, source: Source
    ) -> None:
        async with opened(fresh_redis.url, key_prefix, redis_timeout=1) as store:
            await store.add("other", "t", 1)
            fresh_redis.kill()
            async with Call(app_of(store, source), "/r") as call:
                await until(lambda: call.status == 200)
            assert (source.used, source.closed) == (0, 1)
            await close_hubs(store)

    async def test_what_runs_here_is_joined_all_the_same(
        self, fresh_redis: RedisServer, key_prefix: str, source: Source
    ) -> None:
        async with opened(fresh_redis.url, key_prefix, redis_timeout=5) as store:
            run = RunPublisher("bare", store=store)
            await run.emit("t", 1)
            app = app_of(store, source)
            async with Call(app, "/r") as call:
                source.say(("t", 1))
                await until(lambda: len(call.events) == 1)
                fresh_redis.kill()
                async with Call(app, "/r", headers={"last-event-id": "0"}) as again:
                    source.say(("t", 2))
                    await until(lambda: ("t", 2) in call.events)
                    await until(lambda: again.status == 200)
                source.say(StopAsyncIteration)
                await call.ended()
            assert source.used == 1
            await close_hubs(store)


async def test_a_broken_key_is_told(redis: RedisServer, key_prefix: str, source: Source) -> None:
    async with opened(redis.url, key_prefix) as store:
        redis.execute("SET", store.keys("r").meta, "x")
        async with Call(app_of(store, source), "/r") as call:
            await call.ended()
        assert call.status == 500
        assert "CORRUPT_DATA" in call.text
        await close_hubs(store)
