"""Whose page asks: what no page of somebody else may do, however it tries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from holdfast import EventStreamApp, RunPublisher, Settings, stream_token
from holdfast.streams.origins import Site, site_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.anyio
KEY, PUBLISH = "a-key-of-sixteen-characters-or-more", "a-publish-token-of-a-worker"
FRIEND, FOE = "https://friend.example", "https://foe.example"
EVENTS, STOP = "/runs/r/events", "/runs/r/stop"
EVENT = {"type": "t"}


@pytest.mark.parametrize(
    ("headers", "site"),
    [
        ({}, "unknown"),
        ({"origin": "http://h"}, "ours"),
        ({"origin": "https://h:443"}, "ours"),
        ({"origin": "http://h:8000"}, "foreign"),
        ({"origin": FOE}, "foreign"),
        ({"origin": "null"}, "foreign"),
        ({"origin": ""}, "foreign"),
        ({"origin": FRIEND}, "ours"),
        ({"origin": "http://friend.example"}, "foreign"),
        ({"origin": FRIEND, "sec-fetch-site": "cross-site"}, "ours"),
        ({"sec-fetch-site": "same-origin"}, "ours"),
        ({"sec-fetch-site": "same-site"}, "foreign"),
        ({"sec-fetch-site": "cross-site"}, "foreign"),
        ({"sec-fetch-site": "none"}, "unknown"),
        ({"sec-fetch-site": "junk"}, "foreign"),
        # Behind a proxy that renames the host, and where http is asked to act on https.
        ({"origin": "https://public.example", "sec-fetch-site": "same-origin"}, "ours"),
        ({"origin": "http://h", "sec-fetch-site": "cross-site"}, "foreign"),
    ],
)
def test_a_page_is_ours_by_what_the_browser_says(headers: dict[str, str], site: Site) -> None:
    assert site_of(Headers({"host": "h", **headers}), [FRIEND]) == site


def test_everybody_is_nobody_in_particular() -> None:
    assert site_of(Headers({"host": "h", "origin": FOE}), ["*"]) == "foreign"


class LiveSession:
    """A session of holdfast's, as the middleware around the app leaves it."""

    id_hash, owner = "hash", "user:1"
    available, is_new = True, False

    def mark_accessed(self) -> None: ...


def within_session(app: ASGIApp) -> ASGIApp:
    """The cookie comes along whatever page has asked: that is what these attacks live of."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "session": LiveSession()}, receive, send)

    return serve


async def client_of(**more: Any) -> tuple[httpx.AsyncClient, MemoryEventStore]:
    store = MemoryEventStore()
    await RunPublisher("r", owner="user:1", store=store).emit("t", 1)
    given = {"secret_key": KEY, "stream_allowed_origins": (FRIEND,), **more}
    app = within_session(EventStreamApp(settings=Settings(**given), store=store))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://h"), store


async def stopped(store: MemoryEventStore) -> bool:
    return (await store.append("r", [store.draft("t", 2)]))[0].stopping


def token(*actions: str) -> dict[str, str]:
    signed = stream_token("r", actions=actions, settings=Settings(secret_key=KEY))
    return {"authorization": f"Bearer {signed}"}


async def anyone(connection: HTTPConnection, run_id: str, action: str) -> bool:
    return True


FOREIGN = [
    {"origin": FOE},
    {"origin": "null"},
    {"origin": FOE, "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://h:81"},
]
MODES = ["open", "session", f"{__name__}:anyone"]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("access", MODES)
async def test_a_foreign_page_can_neither_stop_nor_publish(
    access: str, headers: dict[str, str]
) -> None:
    http, store = await client_of(stream_access=access, stream_publish_token=PUBLISH)
    form = {"content-type": "text/plain", **headers}
    for answer in (
        await http.post(STOP, headers=headers),
        await http.post(STOP, content="a=b", headers=form),
        # A token that is none must not turn the session's own check off.
        await http.post(STOP + "?token=junk", headers=headers),
        await http.post(EVENTS, json=EVENT, headers=headers),
        await http.post(EVENTS, content='{"type":"t"}', headers=form),
        await http.post(EVENTS + f"?token={PUBLISH}", content='{"type":"t"}', headers=form),
    ):
        assert answer.status_code in {401, 403}
        assert answer.headers.get("access-control-allow-origin") is None
    assert len(await store.get_events("r")) == 1
    assert not await stopped(store)


@pytest.mark.parametrize("access", MODES)
async def test_everybody_allowed_to_read_may_still_not_stop(access: str) -> None:
    http, store = await client_of(stream_access=access, stream_allowed_origins=("*",))
    assert (await http.post(STOP, headers={"origin": FOE})).status_code in {401, 403}
    assert not await stopped(store)


def test_everybody_let_in_brings_no_cookie_to_a_websocket() -> None:
    store = MemoryEventStore()
    settings = Settings(secret_key=KEY, stream_access="session", stream_allowed_origins=("*",))
    path, foreign = "/runs/r/events/ws", {"origin": FOE}
    with TestClient(within_session(EventStreamApp(settings=settings, store=store))) as http:
        assert http.portal is not None
        http.portal.call(RunPublisher("r", owner="user:1", store=store).emit, "t", 1)
        for headers in ({}, {"origin": "http://testserver"}, {**foreign, **token("read")}):
            with http.websocket_connect(path, headers=headers) as socket:
                assert socket.receive_json()["kind"] == "event"
        with pytest.raises(WebSocketDisconnect), http.websocket_connect(path, headers=foreign):
            pass


@pytest.mark.parametrize(
    "headers", [{"origin": "http://h"}, {"origin": FRIEND}, {"sec-fetch-site": "same-origin"}]
)
async def test_a_page_of_ours_stops_the_run_of_its_session(headers: dict[str, str]) -> None:
    http, store = await client_of(stream_access="session")
    assert (await http.post(STOP, headers=headers)).status_code == 202
    assert await stopped(store)
    for run in ("absent", "foreign"):
        await RunPublisher("foreign", owner="user:2", store=store).emit("t", 1)
        answer = await http.post(f"/runs/{run}/stop", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")


async def test_a_session_without_a_page_stops_nothing() -> None:
    http, store = await client_of(stream_access="session")
    assert (await http.post(STOP)).status_code == 401
    assert not await stopped(store)


@pytest.mark.parametrize("headers", [{"origin": "http://h"}, {"sec-fetch-site": "same-origin"}])
@pytest.mark.parametrize("access", ["open", "session"])
async def test_publishing_takes_a_token_from_a_page_of_ours_too(
    access: str, headers: dict[str, str]
) -> None:
    http, _ = await client_of(stream_access=access)
    assert (await http.post(EVENTS, json=EVENT, headers=headers)).status_code == 401
    signed = {**headers, **token("publish")}
    assert (await http.post(EVENTS, json=EVENT, headers=signed)).status_code == 201


@pytest.mark.parametrize("access", ["open", "session", "token"])
async def test_a_token_is_enough_from_anywhere(access: str) -> None:
    http, store = await client_of(stream_access=access)
    assert (await http.post(STOP, headers={"origin": FOE, **token("stop")})).status_code == 202
    assert await stopped(store)
    for wrong in (token("read"), token("publish")):
        assert (await http.post(STOP, headers=wrong)).status_code == 403
    assert (await http.post(EVENTS, json=EVENT, headers=token("read", "stop"))).status_code == 403


@pytest.mark.parametrize("access", [*MODES, "token"])
async def test_a_publish_token_opens_publishing_alone_and_by_the_header_alone(access: str) -> None:
    http, store = await client_of(stream_access=access, stream_publish_token=[PUBLISH, KEY])
    for each in (PUBLISH, KEY):
        bearer = {"authorization": f"Bearer {each}"}
        assert (await http.post("/runs/new/events", json=EVENT, headers=bearer)).status_code == 201
        assert (await http.post(EVENTS, json=EVENT, headers=bearer)).status_code == 201
        if access == "token":
            assert (await http.get(EVENTS, headers=bearer)).status_code == 401
        if "anyone" not in access:
            assert (await http.post(STOP, headers=bearer)).status_code == 401
            query = {"token": each}
            assert (await http.post(EVENTS, json=EVENT, params=query)).status_code == 401
    near = [PUBLISH[:-1], PUBLISH + "x", PUBLISH.upper(), f"{PUBLISH},{KEY}", ""]
    if "anyone" not in access:
        for each in near:
            bearer = {"authorization": f"Bearer {each}".strip()}
            assert (await http.post(EVENTS, json=EVENT, headers=bearer)).status_code == 401
    assert not await stopped(store)
