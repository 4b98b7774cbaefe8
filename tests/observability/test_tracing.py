"""The spans that an app with the OpenTelemetry SDK gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from holdfast import (
    EventStore,
    RunEnded,
    RunPublisher,
    SessionMiddleware,
    Settings,
    SyncRunPublisher,
    get_session,
    signals,
)
from holdfast.streams.cursor import Cursor
from holdfast.streams.fanout.hub import Hub
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.tracing import record_spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from holdfast.testing import RedisServer


class Tracer:
    """A provider of the test's own, and what it has been told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self, name: str) -> list[ReadableSpan]:
        """Return the finished spans of that name."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    """What this process is traced with."""
    tracer = Tracer()
    end = record_spans(tracer.provider)
    yield tracer
    end()


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest, key_prefix: str) -> Settings:
    """The settings of an app, for either store."""
    url = None
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis")
        url = redis.url
    return Settings(
        redis_url=url,
        secret_key="a-key-that-is-long-enough-for-tests",
        key_prefix=key_prefix,
    )


def app_of(settings: Settings) -> ASGIApp:
    """Return an app that logs in and tells who is."""

    async def login(request: Request) -> Response:
        request.session["user_id"] = "ada"
        return Response(get_session(request).id_hash)

    async def who(request: Request) -> Response:
        return Response(str(request.session.get("user_id")))

    routes = [Route("/login", login), Route("/", who)]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, settings=settings)])


async def test_a_load_and_a_save_are_spans_of_their_session(
    tracer: Tracer, settings: Settings
) -> None:
    transport = httpx.ASGITransport(app=app_of(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        id_hash = (await http.get("/login")).text
        assert (await http.get("/")).text == "ada"
    (save,) = tracer.spans("holdfast.session.save")
    (load,) = tracer.spans("holdfast.session.load")
    for span, outcome in ((save, "stored"), (load, "found")):
        assert span.kind is SpanKind.INTERNAL
        assert dict(span.attributes or {}) == {
            "holdfast.outcome": outcome,
            "holdfast.session.id_hash": id_hash,
        }
        assert span.status.status_code is StatusCode.UNSET


async def test_publishing_is_a_span_of_its_run_and_of_the_caller_s_trace(
    tracer: Tracer, settings: Settings
) -> None:
    publisher = RunPublisher("r", settings=settings)
    with tracer.provider.get_tracer("app").start_as_current_span("caller") as caller:
        await publisher.emit("t", 1)
        await publisher.workflow_complete()
    first, _ = tracer.spans("holdfast.stream.publish")
    assert first.kind is SpanKind.PRODUCER
    assert first.parent is not None
    assert first.parent.span_id == caller.get_span_context().span_id
    assert dict(first.attributes or {}) == {
        "holdfast.run.id": "r",
        "holdfast.events": 1,
        "holdfast.outcome": "stored",
    }


async def test_a_run_that_is_over_is_no_failure(tracer: Tracer, settings: Settings) -> None:
    store = EventStore.from_settings(settings)
    await store.add("r", "workflow_complete", None)
    with pytest.raises(RunEnded):
        await store.add("r", "t", 1)
    _, refused = tracer.spans("holdfast.stream.publish")
    assert (refused.attributes or {})["holdfast.outcome"] == "ended"
    assert refused.status.status_code is StatusCode.UNSET
    assert not refused.events


def test_a_thread_s_publishing_is_a_span_too(tracer: Tracer, settings: Settings) -> None:
    SyncRunPublisher("r", settings=settings).emit("t", 1)
    (span,) = tracer.spans("holdfast.stream.publish")
    assert (span.attributes or {})["holdfast.outcome"] == "stored"


async def test_a_reader_is_a_span_from_its_joining_to_its_leaving(tracer: Tracer) -> None:
    store = MemoryEventStore()
    hub = Hub(store)
    async with RunPublisher("r", store=store) as run, Subscription(hub, "r", Cursor()) as reader:
        for n in range(3):
            await run.emit("t", n)
        taken = 0
        while True:
            batch = reader.take_batch()
            taken += len(batch.frames) if batch else len(await reader.take())
            if taken == 3:
                break
            await reader.wait()
        assert not tracer.spans("holdfast.stream.deliver")
    (span,) = tracer.spans("holdfast.stream.deliver")
    assert span.kind is SpanKind.CONSUMER
    assert (span.attributes or {})["holdfast.run.id"] == "r"
    assert (span.attributes or {})["holdfast.events"] == taken
    await hub.aclose()


async def test_what_is_traced_beside_a_reader_is_no_part_of_it(tracer: Tracer) -> None:
    store = MemoryEventStore()
    hub = Hub(store)
    async with Subscription(hub, "r", Cursor()):
        await RunPublisher("r", store=store).emit("t", 1)
    (publish,) = tracer.spans("holdfast.stream.publish")
    assert publish.parent is None
    await hub.aclose()


async def test_a_session_that_cannot_be_reached_is_a_failed_load(
    tracer: Tracer, fresh_redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(
        redis_url=fresh_redis.url,
        secret_key="a-key-that-is-long-enough-for-tests",
        key_prefix=key_prefix,
        session_on_outage="closed",
    )
    transport = httpx.ASGITransport(app=app_of(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        await http.get("/login")
        fresh_redis.kill()
        assert (await http.get("/")).status_code == 503
    (load,) = tracer.spans("holdfast.session.load")
    assert (load.attributes or {})["holdfast.outcome"] == "unavailable"


def test_an_error_is_told_with_its_span(tracer: Tracer) -> None:
    with pytest.raises(LookupError), signals.Operation("session_save", session="hash"):
        raise LookupError("of the store")
    (span,) = tracer.spans("holdfast.session.save")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "LookupError"
    assert [event.name for event in span.events] == ["exception"]
    assert (span.attributes or {})["holdfast.outcome"] == "error"


def test_what_has_ended_makes_no_spans() -> None:
    tracer = Tracer()
    record_spans(tracer.provider)()
    with signals.Operation("session_save"):
        pass
    assert not tracer.spans("holdfast.session.save")
