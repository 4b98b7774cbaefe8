"""What a scrape tells of a process: real requests, a real Redis, and a parser that is not ours."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
import weakref
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from tests.observability.scraping import Scrape
from tests.support.process import ROOT

from holdfast import (
    MemorySessionStore,
    RunPublisher,
    SessionMiddleware,
    SessionUnavailable,
    Settings,
    WSGISessionMiddleware,
    get_session,
    signals,
)
from holdfast.errors import JournalFull
from holdfast.metrics import MetricsApp, WSGIMetricsApp, record_metrics
from holdfast.metrics.table import METRICS
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.store import SessionKey
from holdfast.streams.cursor import Cursor, parse_position
from holdfast.streams.fanout.hub import Hub
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request
    from tests.conftest import Serve

    from holdfast.link import Recovery
    from holdfast.testing import RedisServer

EXAMPLE = ROOT / "examples" / "metrics.py"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[CollectorRegistry]:
    """A registry of the test's own, into which this process is measured."""
    # What earlier tests have left is read no more, whenever the garbage collector comes by.
    monkeypatch.setattr(signals, "_readable", weakref.WeakSet())
    registry = CollectorRegistry()
    end = record_metrics(registry)
    yield registry
    end()


@pytest.fixture
def away(free_port: int, key_prefix: str) -> Settings:
    """The settings of a process whose Redis refuses every connection."""
    return Settings(
        redis_url=f"redis://127.0.0.1:{free_port}/0",
        secret_key="a-key-that-is-long-enough-for-tests",
        key_prefix=key_prefix,
        stream_journal=2,
    )


@pytest.fixture(params=["memory", "redis"])
def env(request: pytest.FixtureRequest, key_prefix: str) -> dict[str, str]:
    """The variables of a served app, for either store."""
    shared = {"HOLDFAST_SECRET_KEY": "a-key-that-is-long-enough-for-tests"}
    if request.param == "memory":
        return shared
    redis: RedisServer = request.getfixturevalue("redis")
    return {**shared, "HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}


def test_a_scrape_tells_what_requests_have_done_and_of_whom_nothing(
    serve: Serve, env: dict[str, str]
) -> None:
    url = serve(EXAMPLE, env=env).url
    with httpx.Client(base_url=url) as http:
        http.post("/login/ada").raise_for_status()
        stream = http.post("/runs/a-telling-name").json()["url"]
        assert http.get(stream).text.count("event: step") == 3
        http.post("/logout").raise_for_status()
    text = httpx.get(f"{url}/metrics").text
    assert not [each for each in ("a-telling-name", "ada", "127.0.0.1") if each in text]
    scrape = Scrape.at(f"{url}/metrics")
    assert scrape("session_events_total", {"event": "created", "reason": ""}) == 1
    ended = {"event": "destroyed", "reason": "invalidated"}
    assert scrape("session_events_total", ended) == 1
    # The POST of the run, the GET of its stream and the logout brought the cookie.
    assert scrape("session_load_duration_seconds_count", {"outcome": "found"}) == 3
    assert scrape("session_load_duration_seconds_sum", {"outcome": "found"}) > 0
    assert scrape("session_save_duration_seconds_count", {"outcome": "stored"}) == 2
    assert scrape("stream_events_published_total", {"outcome": "stored"}) == 4
    assert scrape("stream_publish_duration_seconds_count", {"outcome": "stored"}) == 4
    assert scrape("stream_events_delivered_total") == 4
    assert scrape("stream_subscribers") == 0
    assert scrape("redis_link_state", {"state": "up"}) == ("HOLDFAST_REDIS_URL" in env)
    assert scrape.unknown_labels() == []


def test_every_metric_of_the_table_is_told_from_the_start(registry: CollectorRegistry) -> None:
    families = Scrape.of(registry).families
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.documentation == metric.help
        assert family.type == metric.kind.replace("total", "counter")
        if metric.word != "info":
            told = {
                tuple(each.labels.get(name) for name in metric.labels) for each in family.samples
            }
            assert told == set(metric.values or ((),))


async def test_readers_rings_and_runs_are_read(registry: CollectorRegistry) -> None:
    store = MemoryEventStore()
    hub = Hub(store)
    await RunPublisher("r", store=store).emit("t", {"n": 1})
    async with Subscription(hub, "r", Cursor()) as one, Subscription(hub, "r", Cursor()):
        while not await one.take():
            await one.wait()
        await RunPublisher("r", store=store).emit("t", {"n": 2})
        while not (one.take_batch() or await one.take()):
            await one.wait()
        scrape = Scrape.of(registry)
        assert scrape("stream_subscribers") == 2
        assert scrape("stream_runs") == 1
        assert scrape("stream_ring_bytes") > 0
        assert scrape("stream_events_delivered_total") == 2
    assert Scrape.of(registry)("stream_subscribers") == 0
    await hub.aclose()


async def test_a_gap_that_is_told_is_counted(registry: CollectorRegistry) -> None:
    store = MemoryEventStore(maxlen=2)
    hub = Hub(store)
    publisher = RunPublisher("r", store=store)
    first = await publisher.emit("t", 1)
    for n in range(8):
        await publisher.emit("t", n)
    position = parse_position(first.id)
    assert position is not None
    async with Subscription(hub, "r", position) as reader:
        while not await reader.take():
            await reader.wait()
    assert Scrape.of(registry)("stream_breaks_total", {"kind": "gap"}) == 1
    await hub.aclose()


async def test_an_outage_is_told_with_its_reason_and_its_seconds(
    registry: CollectorRegistry,
    fresh_redis: RedisServer,
    key_prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from holdfast.link import Link

    link = Link(Settings(redis_url=fresh_redis.url, key_prefix=key_prefix))
    assert await link.ready()
    before = Scrape.of(registry)("redis_away_seconds_total")
    fresh_redis.kill()
    _until(lambda: not link.up)
    assert Scrape.of(registry)("redis_link_state", {"state": "up"}) == 0
    reasons = ("refused", "reset", "timeout")
    outage = [{"reason": reason} for reason in reasons]
    _until(lambda: sum(Scrape.of(registry)("redis_outages_total", each) for each in outage) == 1)
    fresh_redis.start()
    _until(lambda: link.up)
    _until(lambda: Scrape.of(registry)("redis_link_transitions_total", {"state": "up"}) == 2)
    scrape = Scrape.of(registry)
    assert scrape("redis_link_state", {"state": "up"}) == 1
    # The hold-down is two seconds.
    away = scrape("redis_away_seconds_total") - before
    assert away >= 1.5
    assert Scrape.of(registry)("redis_away_seconds_total") - before == away
    down, up = (vars(record) for record in caplog.records if record.name == "holdfast.link")
    assert (down["redis_state"], up["redis_state"]) == ("down", "up")
    assert down["redis_reason"] == up["redis_reason"]
    assert down["redis_reason"] in reasons
    assert up["redis_away_seconds"] == up["redis_since"] - down["redis_since"]
    await link.aclose()


async def test_a_link_that_nobody_has_used_or_that_was_closed_is_none(
    registry: CollectorRegistry, redis: RedisServer
) -> None:
    from holdfast.link import Link

    link = Link(Settings(redis_url=redis.url))
    assert sum(states_of(registry)) == 0
    assert await link.ready()
    assert sum(states_of(registry)) == 1
    await link.aclose()
    assert sum(states_of(registry)) == 0


async def test_a_recovery_that_fails_is_counted(
    registry: CollectorRegistry, redis: RedisServer
) -> None:
    from holdfast.link import Link

    def fail(_: Recovery) -> None:
        raise LookupError("of the test")

    link = Link(Settings(redis_url=redis.url))
    link.on_recovery("test", fail)
    _until(link.ready_sync)
    assert Scrape.of(registry)("redis_recovery_errors_total") == 1
    await link.aclose()


def states_of(registry: CollectorRegistry) -> list[float]:
    samples = Scrape.of(registry).families["holdfast_redis_link_state"].samples
    return [each.value for each in samples]


async def test_a_journal_is_told_and_what_it_refuses(
    registry: CollectorRegistry, away: Settings
) -> None:
    publisher = RunPublisher("r", settings=away)
    for n in range(2):
        await publisher.emit("t", n)
    with pytest.raises(JournalFull):
        await publisher.emit("t", 3)
    scrape = Scrape.of(registry)
    assert scrape("stream_journal_events") == 2
    assert scrape("stream_journal_limit") == 2
    assert scrape("stream_journal_bytes") == 2
    assert scrape("stream_outbox_events") == 2
    assert scrape("stream_events_published_total", {"outcome": "provisional"}) == 2
    assert scrape("stream_events_published_total", {"outcome": "journal_full"}) == 1


async def test_a_full_session_journal_is_counted_once_for_each_refusal(
    registry: CollectorRegistry, away: Settings
) -> None:
    store = FallbackSessionStore(away, max_sessions=1)
    await store.create(SessionKey("a", "s"), {"k": b"1"}, max_age=60)
    for _ in range(2):
        with pytest.raises(SessionUnavailable):
            await store.create(SessionKey("b", "s"), {"k": b"1"}, max_age=60)
    for _ in range(2):  # a total is counted once, however often it is read
        scrape = Scrape.of(registry)
        assert scrape("session_journal_full_total") == 2
        assert scrape("session_journal_sessions") == 1
        assert scrape("session_journal_limit") == 1


async def test_a_write_to_a_session_that_is_gone_is_told_as_dropped(
    registry: CollectorRegistry,
) -> None:
    store = MemorySessionStore()

    async def login(request: Request) -> Response:
        request.session["user_id"] = "ada"
        return Response()

    async def count(request: Request) -> Response:
        return Response(str(await get_session(request).incr("visits")))

    async def late(request: Request) -> Response:
        request.session["cart"] = 1
        await store.delete(get_session(request).id_hash)  # as a logout in another tab does
        return Response()

    routes = [Route("/login", login), Route("/count", count), Route("/late", late)]
    key = "a-key-that-is-long-enough-for-tests"
    app = SessionMiddleware(Starlette(routes=routes), secret_key=key, store=store)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        await http.get("/login")
        assert (await http.get("/count")).text == "1"
        await http.get("/late")
    scrape = Scrape.of(registry)
    assert scrape("session_save_duration_seconds_count", {"outcome": "dropped"}) == 1
    assert scrape("session_save_duration_seconds_count", {"outcome": "stored"}) == 2
    assert scrape("session_events_total", {"event": "refused", "reason": "ended"}) == 1


def test_sessions_of_wsgi_apps_are_told_too(registry: CollectorRegistry) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        session = environ["holdfast.session"]
        session["visits"] = session.get("visits", 0) + 1
        start_response("200 OK", [])
        return [b""]

    key = "a-key-that-is-long-enough-for-tests"
    served = WSGISessionMiddleware(app, secret_key=key, store=MemorySessionStore())
    transport = httpx.WSGITransport(app=served)
    with httpx.Client(transport=transport, base_url="http://test") as http:
        for _ in range(2):
            http.get("/").raise_for_status()
    scrape = Scrape.of(registry)
    assert scrape("session_load_duration_seconds_count", {"outcome": "found"}) == 1
    assert scrape("session_save_duration_seconds_count", {"outcome": "stored"}) == 2


DJANGO = """
    import django
    from django.conf import settings
    settings.configure(SECRET_KEY="a-key-that-is-long-enough-for-tests")
    django.setup()
    from prometheus_client import REGISTRY, generate_latest
    from holdfast.django import SessionStore
    from holdfast.metrics import record_metrics
    record_metrics()
    session = SessionStore()
    session["cart"] = 1
    session.save()
    key = session.session_key
    assert SessionStore(key)["cart"] == 1
    session.delete()
    assert SessionStore(key).load() == {}
    print(generate_latest(REGISTRY).decode())
"""


def test_sessions_of_django_are_told_too() -> None:
    pytest.importorskip("django")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DJANGO)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    scrape = Scrape(done.stdout)
    assert scrape("session_load_duration_seconds_count", {"outcome": "absent"}) == 1
    assert scrape("session_load_duration_seconds_count", {"outcome": "found"}) == 1
    assert scrape("session_save_duration_seconds_count", {"outcome": "stored"}) == 1


def test_a_value_that_the_table_does_not_know_is_told_as_other(
    registry: CollectorRegistry,
) -> None:
    signals.count("redis_outages", "a-host-of-somebody")
    scrape = Scrape.of(registry)
    assert scrape("redis_outages_total", {"reason": "other"}) == 1
    assert scrape.unknown_labels() == []


def test_the_same_registry_is_measured_into_once(registry: CollectorRegistry) -> None:
    record_metrics(registry)
    MetricsApp(registry)
    signals.count("session_corrupt")
    assert Scrape.of(registry)("session_corrupt_total") == 1


def test_what_has_ended_leaves_the_registry_and_hears_no_more() -> None:
    registry = CollectorRegistry()
    end = record_metrics(registry)
    end()
    end()
    assert signals.observers == ()
    assert Scrape.of(registry).families == {}
    record_metrics(registry)()


def test_a_registry_that_has_one_of_our_names_is_left_as_it_was() -> None:
    registry = CollectorRegistry()
    Counter("holdfast_session_corrupt", "Of somebody else.", registry=registry)
    with pytest.raises(ValueError, match="holdfast_session_corrupt"):
        record_metrics(registry)
    left = {name.removesuffix("_created") for name in Scrape.of(registry).families}
    assert left == {"holdfast_session_corrupt"}
    assert signals.observers == ()


def test_the_app_s_own_metrics_are_scraped_with_ours(registry: CollectorRegistry) -> None:
    Counter("shop_orders", "Orders.", registry=registry).inc()
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        started.append(status)

    environ = {"QUERY_STRING": "", "REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    body = b"".join(WSGIMetricsApp(registry)(environ, start_response)).decode()
    assert started == ["200 OK"]
    assert "shop_orders_total 1.0" in body
    assert Scrape(body)("session_corrupt_total") == 0


async def test_what_is_asked_by_name_is_read_too(
    registry: CollectorRegistry, away: Settings
) -> None:
    app = MetricsApp(registry)
    await RunPublisher("r", settings=away).emit("t", 1)
    url = "http://test/?name[]=holdfast_stream_journal_events"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as http:
        scrape = Scrape((await http.get(url)).text)
    assert scrape("stream_journal_events") == 1
    assert len(scrape.families) == 1


@pytest.mark.parametrize("module", ["metrics", "tracing"])
def test_without_its_package_an_extra_names_itself(module: str) -> None:
    missing = {"metrics": "prometheus_client", "tracing": "opentelemetry"}[module]
    extra = {"metrics": "prometheus", "tracing": "otel"}[module]
    source = f"import sys; sys.modules[{missing!r}] = None; import holdfast.{module}"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60
    )
    assert f'pip install "holdfast[{extra}]"' in done.stderr


def test_neither_package_is_loaded_before_its_door_is_used() -> None:
    source = textwrap.dedent("""
        import sys, holdfast
        for name in holdfast.__all__:
            getattr(holdfast, name)
        app = holdfast.SessionMiddleware(holdfast.EventStreamApp())
        print([each for each in sys.modules if each.startswith(("prometheus", "opentelemetry"))])
    """)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
def test_processes_that_share_a_directory_are_told_as_one(
    serve: Serve, env: dict[str, str], tmp_path: Path
) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    command = ["-m", "gunicorn", "--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "2"]
    command += ["--bind", "127.0.0.1:{port}", "--chdir", str(EXAMPLE.parent), "metrics:app"]
    shared = {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
    if "HOLDFAST_REDIS_URL" not in env:
        shared |= {"HOLDFAST_SESSION_STORE": "memory"}
    else:
        # Forked with what measures in it, and not begun anew by an import.
        command.insert(2, "--preload")
    url = serve(command, env={**env, **shared}).url
    for user in range(20):
        # The socket is there before the workers are.
        httpx.post(f"{url}/login/{user}", timeout=60).raise_for_status()
    created = {"event": "created", "reason": ""}
    # Whichever worker is asked.
    assert {Scrape.at(f"{url}/metrics")("session_events_total", created) for _ in range(6)} == {20}
    if "HOLDFAST_REDIS_URL" in env:
        up = {"state": "up"}
        _until(lambda: Scrape.at(f"{url}/metrics")("redis_link_state", up) == 2)
    assert len(list(directory.iterdir())) >= 2


def _until(condition: Callable[[], object], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
