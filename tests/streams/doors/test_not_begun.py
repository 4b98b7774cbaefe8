"""Who reads by a session a run that is not begun, nobody's or somebody else's: all are alike."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import PlainTextResponse
from tests.streams.asgi import Call
from tests.streams.capture.calls import Browser
from tests.streams.clients import until
from tests.streams.doors.test_many_sse import error
from tests.streams.doors.test_many_websocket import said, say
from tests.streams.doors.test_sse import KEY, app_of
from tests.streams.patchy import PatchyStore
from tests.streams.test_access import LiveSession

from holdfast import (
    MemorySessionStore,
    RunPublisher,
    SessionMiddleware,
    Settings,
    get_session,
    stream_token,
)
from holdfast.errors import RedisUnavailable
from holdfast.streams.select import close_hubs, hub_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from holdfast import EventStore
    from holdfast.streams.store import RunInfo

pytestmark = pytest.mark.anyio

ADA = "user:ada"
KINDS = ("absent", "nobodys", "bobs")
LONG, SHORT = "?wait=60", "?wait=0.2"


def asked(
    store: EventStore, path: str, *, kind: str = "http", method: str = "GET", **settings: Any
) -> Call:
    """A request of Ada's session."""
    streams = app_of(store, stream_access="session", **settings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streams({**scope, "session": LiveSession(ADA)}, receive, send)

    call = Call(app, path, kind=kind)
    call._scope["method"] = method
    return call


async def begin(store: EventStore, run_id: str, owner: str | None) -> None:
    """Publish one more event of a run."""
    await RunPublisher(run_id, owner=owner, store=store).emit("t", 1)


async def others(store: EventStore) -> None:
    """Have runs that Ada does not own."""
    await begin(store, "nobodys", None)
    await begin(store, "bobs", "user:bob")


def paths(door: str, more: str = "") -> list[str]:
    """The address of each kind of run at a door of one run, or of many."""
    if door == "many":
        return [f"/events/stream?run={kind}{more.replace('?', '&')}" for kind in KINDS]
    return [f"/runs/{kind}/events/stream{more}" for kind in KINDS]


@pytest.mark.parametrize("door", ["one", "many"])
async def test_each_is_refused_alike_and_not_before_its_time(store: EventStore, door: str) -> None:
    await others(store)
    calls = [asked(store, path) for path in (*paths(door, LONG), *paths(door, SHORT))]
    for call in calls:
        await call.__aenter__()
    for call in calls[3:]:
        await call.ended()
        assert (call.status, '"FORBIDDEN"' in call.text) == (403, True)
    assert calls[3].sent == calls[4].sent == calls[5].sent
    # What happens in a run of others says nothing of it.
    await others(store)
    await asyncio.sleep(0.1)
    assert [call.sent for call in calls[:3]] == [[]] * 3
    for call in calls:
        await call.__aexit__(None, None, None)


@pytest.mark.parametrize("door", ["one", "many"])
async def test_a_run_that_begins_meanwhile_is_served_to_its_owner(
    store: EventStore, door: str
) -> None:
    call = asked(store, paths(door, LONG)[0])
    async with call:
        await until(lambda: hub_of(store).watches("absent"))
        await begin(store, "absent", ADA)
        await until(lambda: call.events)
        await begin(store, "absent", ADA)
        await until(lambda: len(call.events) == 2)
        assert call.status == 200


@pytest.mark.parametrize("door", ["one", "many"])
async def test_a_run_of_others_that_begins_meanwhile_is_none_to_who_waits(
    store: EventStore, door: str
) -> None:
    async with asked(store, paths(door, LONG)[0]) as call:
        await until(lambda: hub_of(store).watches("absent"))
        await begin(store, "absent", "user:bob")
        await asyncio.sleep(0.1)
        assert call.sent == []


@pytest.mark.parametrize("door", ["one", "many"])
async def test_who_does_not_wait_is_refused_at_once(store: EventStore, door: str) -> None:
    await others(store)
    for path in (*paths(door, LONG), *paths(door, "?wait=0")):
        async with asked(store, path, method="HEAD" if "60" in path else "GET") as call:
            await call.ended()
        assert call.status == 403


async def test_on_a_websocket_each_is_refused_alike(store: EventStore) -> None:
    await others(store)
    frames = []
    for run_id in KINDS:
        async with asked(store, f"/runs/{run_id}/events/ws{SHORT}", kind="websocket") as call:
            await call.ended()
        assert call.close_code == 1008
        frames.append([{**frame, "run_id": ""} for frame in call.frames])
    assert frames == [[{"kind": "error", "run_id": "", "code": "FORBIDDEN"}]] * 3
    async with asked(store, f"/runs/absent/events/ws{LONG}", kind="websocket") as call:
        await until(lambda: call.sent)
        await begin(store, "absent", ADA)
        await until(lambda: call.frames)
        assert call.frames[0]["kind"] == "event"
    for run_id in KINDS[1:]:
        async with asked(store, f"/runs/{run_id}/events/ws?wait=0", kind="websocket") as call:
            await call.ended()
        assert (call.close_code, len(call.sent)) == (1008, 1), "the handshake is refused"


async def test_on_a_websocket_of_many_runs_each_is_refused_alike(store: EventStore) -> None:
    await others(store)
    await begin(store, "hers", ADA)
    path = f"/events/ws?run=hers&run=bobs{SHORT.replace('?', '&')}"
    async with asked(store, path, kind="websocket") as call:
        say(call, "add", "absent")
        say(call, "add", "nobodys")
        await until(lambda: sum(code == "FORBIDDEN" for code, _ in said(call)) == 3)
        assert [run for code, run in said(call) if code == "added"] == ["absent", "nobodys"]
        say(call, "add", "bobs")
        await until(lambda: said(call).count(("FORBIDDEN", "bobs")) == 2)
        assert call.close_code is None


async def test_what_may_be_read_of_many_runs_waits_for_none(store: EventStore) -> None:
    await others(store)
    await begin(store, "hers", ADA)
    path = "/events/stream?run=hers&run=absent&run=bobs&run=nobodys"
    async with asked(store, f"{path}&wait=0.2") as call:
        await until(lambda: all(error(run, "FORBIDDEN") in call.events for run in KINDS))
        assert call.events[0][1]["run_id"] == "hers"
        await RunPublisher("hers", store=store).workflow_complete()
        await call.ended()
    # Whoever comes back was told, and is not kept: nothing can follow.
    last = call.text.rpartition("\nid: ")[2].partition("\n")[0]
    async with asked(store, f"{path}&wait=60&last_id={last}") as again:
        await again.ended()
    assert again.status == 204


async def test_who_waits_is_counted_as_a_reader(store: EventStore) -> None:
    async with asked(store, paths("one", LONG)[0], stream_max_subscribers=1) as first:
        await until(lambda: len(hub_of(store).subscribers) == 1)
        async with asked(store, paths("one", LONG)[2], stream_max_subscribers=1) as second:
            await second.ended()
        assert (second.status, first.status) == (200, None)


@pytest.mark.parametrize("door", ["one", "many"])
async def test_a_process_that_stops_sends_them_to_another(store: EventStore, door: str) -> None:
    async with asked(store, paths(door, LONG)[0]) as call:
        await until(lambda: hub_of(store).watches("absent"))
        hub_of(store).stop_soon()
        await call.ended()
    assert (call.status, call.events) == (200, [])
    assert call.text.startswith("retry: ")


@pytest.mark.parametrize("door", ["one", "many"])
async def test_after_a_logout_the_run_that_begins_is_nobodys_who_waited(door: str) -> None:
    store, sessions = MemoryEventStore(), MemorySessionStore()
    streams = app_of(store, stream_access="session", stream_wait=60)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/login":
            get_session(scope)["user_id"] = "ada"
        elif scope["path"] == "/logout":
            get_session(scope).invalidate()
        else:
            await streams(scope, receive, send)
            return
        await PlainTextResponse("")(scope, receive, send)

    settings = Settings(secret_key=KEY)
    browser = Browser(SessionMiddleware(app, settings=settings, store=sessions))
    async with browser.get("/login") as login:
        await login.ended()
    cookies = dict(browser.cookies)
    async with browser.get(paths(door)[0]) as call:
        await until(lambda: hub_of(store).watches("absent"))
        async with browser.get("/logout") as logout:
            await logout.ended()
        await begin(store, "absent", ADA)
        await call.ended()
    assert (call.status, call.events) == (200, []), "he comes back, and is asked who he is"
    browser.cookies = cookies
    async with browser.get(paths(door)[0]) as again:
        await again.ended()
    assert again.status == 401
    await close_hubs(store)


async def test_after_a_logout_a_token_of_that_session_opens_nothing_that_begins() -> None:
    store, sessions = MemoryEventStore(), MemorySessionStore()
    streams = app_of(store, stream_access="token", stream_wait=60)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/login":
            session = get_session(scope)
            session["user_id"] = "ada"
            token = stream_token("absent", session=session, settings=Settings(secret_key=KEY))
            await PlainTextResponse(token)(scope, receive, send)
        elif scope["path"] == "/logout":
            get_session(scope).invalidate()
            await PlainTextResponse("")(scope, receive, send)
        else:
            await streams(scope, receive, send)

    settings = Settings(secret_key=KEY)
    browser = Browser(SessionMiddleware(app, settings=settings, store=sessions))
    async with browser.get("/login") as login:
        await login.ended()
    path = f"/runs/absent/events/stream?token={login.text}"
    async with browser.get(path) as call:
        await until(lambda: hub_of(store).watches("absent"))
        async with browser.get("/logout") as logout:
            await logout.ended()
        await begin(store, "absent", None)
        await call.ended()
    assert (call.status, call.events) == (200, []), "he comes back, and is asked who he is"
    await close_hubs(store)


class Asked(MemoryEventStore):
    """Counts what it is asked."""

    asked = 0

    async def describe(self, run_id: str) -> RunInfo:
        self.asked += 1
        return await super().describe(run_id)


@pytest.mark.parametrize("door", ["one", "many"])
async def test_a_busy_run_of_others_costs_no_question_for_each_event(door: str) -> None:
    store = Asked()
    await begin(store, "bobs", "user:bob")
    async with asked(store, paths(door, LONG)[2]):
        await until(lambda: hub_of(store).watches("bobs"))
        await asyncio.sleep(0.05)
        before = store.asked
        for _ in range(20):
            await begin(store, "bobs", "user:bob")
            await asyncio.sleep(0.005)
        assert store.asked - before < 10
    await close_hubs(store)


class Owned(PatchyStore):
    """Its run is Ada's."""

    async def describe(self, run_id: str) -> RunInfo:
        return replace(await super().describe(run_id), owner=ADA)


@pytest.mark.parametrize("kind", ["one", "many", "websocket"])
async def test_while_redis_is_away_they_are_held_as_everybody_is(kind: str) -> None:
    store = Owned()
    # At the latest when it would be refused it is seen that nobody can say.
    path = "/events/stream?run=r&wait=60" if kind == "many" else "/runs/r/events/stream?wait=2"
    if kind == "websocket":
        path = f"/runs/r/events/ws{LONG}"
    store.flush()
    scope = "websocket" if kind == "websocket" else "http"
    async with asked(store, path, kind=scope) as call:
        await until(lambda: hub_of(store).watches("r"))
        store.away = True
        for missed in store.missed:
            missed()
        if kind != "websocket":
            await until(lambda: ": waiting" in call.text)
        store.come_back()
        store.other(bell=True)
        await until(lambda: call.frames if kind == "websocket" else call.events)
    await close_hubs(store)


class Blinking(PatchyStore):
    """Its link fails for a question, and is up again before anybody looks at that."""

    blinks = False

    async def describe(self, run_id: str) -> RunInfo:
        if self.blinks:
            raise RedisUnavailable("refused")
        return await super().describe(run_id)


@pytest.mark.parametrize("door", ["one", "many"])
async def test_who_cannot_be_judged_when_redis_is_back_comes_back_and_is_not_refused(
    door: str,
) -> None:
    store = Blinking()
    async with asked(store, paths(door, "?wait=1")[0]) as call:
        await until(lambda: hub_of(store).watches("absent"))
        store.blinks = True
        await call.ended()
    assert (call.status, call.events) == (200, [])
    assert call.text.startswith("retry: ")
    await close_hubs(store)
