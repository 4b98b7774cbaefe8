"""The sub-app's statuses, exactly: bad input, access, methods, cross-origin, ends and absences."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from holdfast import EventStreamApp, RunPublisher, Settings, stream_token
from holdfast.errors import ConfigurationError
from holdfast.streams.select import hub_of
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.websockets import WebSocket

KEY = "a-key-of-sixteen-characters-or-more"
HISTORY, STREAM, STOP = "/runs/{}/events", "/runs/{}/events/stream", "/runs/{}/stop"
DOORS = [HISTORY, STREAM + "?wait=0"]


def settings(**more: Any) -> Settings:
    return Settings(secret_key=KEY, **{"stream_access": "open", **more})


def app_of(store: MemoryEventStore, **more: Any) -> TestClient:
    return TestClient(EventStreamApp(settings=settings(**more), store=store))


@pytest.fixture
def clock() -> list[float]:
    return [time.time()]


@pytest.fixture
def store(clock: list[float]) -> MemoryEventStore:
    """``open`` runs on, ``ended`` is over, ``expired`` is gone but for its end."""
    store = MemoryEventStore(retention=100, clock=lambda: clock[0])

    async def fill() -> None:
        async with RunPublisher("expired", store=store) as publisher:
            await publisher.emit("t", {"n": 1})
        clock[0] += 200
        async with RunPublisher("ended", store=store) as publisher:
            for n in range(1, 4):
                await publisher.emit("t", {"n": n})
        publisher = RunPublisher("open", store=store)
        for n in range(1, 4):
            await publisher.emit("t", {"n": n})

    asyncio.run(fill())
    return store


@pytest.fixture
def http(store: MemoryEventStore) -> Iterator[TestClient]:
    with app_of(store) as client:
        yield client


def ids(http: TestClient, run: str) -> list[str]:
    return [event["id"] for event in http.get(HISTORY.format(run)).json()["events"]]


# -- malformed


MALFORMED = [
    *(" 5-0", "+5-0", "05-0", "5-00", "5", "5-", "-", "+", "(5-0", "٥-0", "\x00", "5-0\n", "-2"),
    *("1" * 10_000, f"{2**64}-0", f"0-{2**64}", "5-0~", "5-0~p", "5-0~p.0", "1-1~p.1~p.2"),
    "5-0" + "".join(f"~p{n}.1" for n in range(9)),
]


@pytest.mark.parametrize("position", MALFORMED)
def test_malformed_position_is_a_problem_of_the_client(http: TestClient, position: str) -> None:
    for params in ({"start_id": position}, {"end_id": position}):
        answer = http.get(HISTORY.format("open"), params=params)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_ID")
    answer = http.get(STREAM.format("open"), params={"last_id": position})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_ID")
    assert answer.headers["content-type"] == "application/problem+json"
    if position.isprintable() and position.isascii() and position == position.strip():
        answer = http.get(STREAM.format("open"), headers={"last-event-id": position})
        assert answer.status_code == 400


@pytest.mark.parametrize("limit", ["0", "-1", "1e3", "x", "1.0", "٣", " 1"])
def test_malformed_limit_is_a_problem_of_the_client(http: TestClient, limit: str) -> None:
    answer = http.get(HISTORY.format("open"), params={"limit": limit})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_LIMIT")


@pytest.mark.parametrize("wait", ["x", "-1", "nan"])
def test_malformed_wait_is_a_problem_of_the_client(http: TestClient, wait: str) -> None:
    answer = http.get(STREAM.format("open"), params={"wait": wait})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_WAIT")


def test_tail_is_no_position_for_pages(http: TestClient) -> None:
    assert http.get(HISTORY.format("open"), params={"start_id": "$"}).status_code == 400


@pytest.mark.parametrize("run", ["%00", "%FF", "x" * 300, "%7Bx%7D", "%2e%2e"])
@pytest.mark.parametrize("door", DOORS)
def test_run_that_cannot_exist_is_a_problem_of_the_client(
    http: TestClient, door: str, run: str
) -> None:
    answer = http.get(door.format(run))
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_RUN_ID")


# -- absent, expired, over


@pytest.mark.parametrize("door", DOORS)
def test_absent_run_is_404_and_expired_run_410(http: TestClient, door: str) -> None:
    answer = http.get(door.format("absent"))
    assert (answer.status_code, answer.json()["code"]) == (404, "RUN_NOT_FOUND")
    answer = http.get(door.format("expired"))
    assert (answer.status_code, answer.json()["code"]) == (410, "RUN_EXPIRED")
    assert answer.json()["title"]


def test_absent_run_is_waited_for_as_long_as_asked(http: TestClient) -> None:
    begun = time.monotonic()
    assert http.get(STREAM.format("absent") + "?wait=0.3").status_code == 404
    assert 0.3 <= time.monotonic() - begun < 2


def test_run_that_begins_while_it_is_waited_for_is_served_whole(store: MemoryEventStore) -> None:
    async def begin() -> None:
        await asyncio.sleep(0.2)
        async with RunPublisher("late", store=store) as publisher:
            await publisher.emit("t", {"n": 1})

    with app_of(store) as http:
        assert http.portal is not None
        begun = http.portal.start_task_soon(begin)
        answer = http.get(STREAM.format("late") + "?wait=10")
        begun.result()
    assert answer.status_code == 200
    assert answer.text.count("event: ") == 2


def test_nothing_can_follow_is_204_in_each_of_its_cases(
    store: MemoryEventStore, clock: list[float]
) -> None:
    with app_of(store) as http:
        end = ids(http, "ended")[-1]
        past = "9999999999999-0"
        for position in (end, past, "$"):
            answer = http.get(STREAM.format("ended"), headers={"last-event-id": position})
            assert (answer.status_code, answer.content) == (204, b"")
        clock[0] += 150
        for position in (end, past, "$"):
            answer = http.get(STREAM.format("ended"), params={"last_id": position})
            assert answer.status_code == 204
        assert http.get(STREAM.format("ended")).status_code == 410


def test_earlier_id_of_an_ended_run_gets_the_rest_and_the_end(http: TestClient) -> None:
    first, second, *_ = ids(http, "ended")
    answer = http.get(STREAM.format("ended"), headers={"last-event-id": second})
    assert [line for line in answer.text.splitlines() if line.startswith("event:")] == [
        "event: t",
        "event: workflow_complete",
    ]
    assert first not in answer.text


def test_header_beats_query(http: TestClient) -> None:
    first, _, third, end = ids(http, "ended")
    headers = {"last-event-id": third}
    answer = http.get(STREAM.format("ended"), params={"last_id": first}, headers=headers)
    assert answer.text.count("event: ") == 1
    headers = {"last-event-id": end}
    answer = http.get(STREAM.format("ended"), params={"last_id": "junk"}, headers=headers)
    assert answer.status_code == 204


@pytest.mark.parametrize("start", ["", "0", "0-0", "-1"])
def test_start_has_several_spellings(http: TestClient, start: str) -> None:
    answer = http.get(STREAM.format("ended"), params={"last_id": start})
    assert answer.text.count("event: ") == 4
    page = http.get(HISTORY.format("ended"), params={"start_id": start, "end_id": ""})
    assert len(page.json()["events"]) == 4


# -- methods


@pytest.mark.parametrize(
    ("door", "allowed"),
    [
        (HISTORY, "GET, HEAD, POST, OPTIONS"),
        (STREAM, "GET, HEAD, OPTIONS"),
        (STOP, "POST, OPTIONS"),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/readyz", "GET, HEAD, OPTIONS"),
        ("/holdfast.js", "GET, HEAD, OPTIONS"),
    ],
)
def test_methods_are_told_to_who_asks_and_to_who_tries_another(
    http: TestClient, door: str, allowed: str
) -> None:
    answer = http.options(door.format("open"))
    assert (answer.status_code, answer.headers["allow"]) == (204, allowed)
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"} - {*allowed.split(", ")}:
        answer = http.request(method, door.format("open"))
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("run", "query", "status"),
    [
        ("open", "", 200),
        ("ended", "", 200),
        ("ended", "?last_id=$", 204),
        ("expired", "", 410),
        ("absent", "", 404),
        ("absent", "?last_id=x", 400),
    ],
)
def test_head_answers_the_status_of_get_without_waiting(
    http: TestClient, run: str, query: str, status: int
) -> None:
    begun = time.monotonic()
    assert http.head(STREAM.format(run) + query).status_code == status
    assert time.monotonic() - begun < 4


def test_head_opens_no_stream(http: TestClient, store: MemoryEventStore) -> None:
    answer = http.head(STREAM.format("open"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert http.head(HISTORY.format("open")).status_code == 200
    assert http.portal is not None
    assert http.portal.call(lambda: len(hub_of(store).subscribers)) == 0


def test_there_is_nothing_elsewhere(http: TestClient) -> None:
    for path in ("/", "/runs", "/runs/r", "/runs/r/events/", "/runs/r/events/ws"):
        answer = http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


def test_answers_are_private_and_unbuffered(http: TestClient) -> None:
    for path in (HISTORY.format("ended"), STREAM.format("ended"), HISTORY.format("absent")):
        headers = http.get(path).headers
        assert headers["cache-control"] == "no-store, no-transform"
        assert headers["referrer-policy"] == "no-referrer"
    assert http.get(STREAM.format("ended")).headers["x-accel-buffering"] == "no"


# -- access


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("token", "status"),
    [(None, 401), ("junk", 401), ("x" * 5000, 401), ("expired", 401), ("other", 403)],
)
def test_denied_alike_for_a_run_that_exists_and_one_that_does_not(
    store: MemoryEventStore,
    caplog: pytest.LogCaptureFixture,
    door: str,
    token: str | None,
    status: int,
) -> None:
    caplog.set_level(logging.DEBUG)
    signed = {
        "expired": stream_token("open", ttl=0.001, settings=settings()),
        "other": stream_token("another", settings=settings()),
    }
    time.sleep(0.002)
    token = signed.get(token or "", token)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with app_of(store, stream_access="token") as http:
        answers = [http.get(door.format(run), headers=headers) for run in ("open", "absent")]
        if token:
            query = {"token": token}
            answers += [http.get(door.format(run), params=query) for run in ("open", "absent")]
    assert {answer.status_code for answer in answers} == {status}
    assert len({answer.text for answer in answers}) == 1
    assert ("www-authenticate" in answers[0].headers) == (status == 401)
    assert "HOLDFAST_STREAM_ACCESS" in caplog.text
    ours = [record for record in caplog.records if record.name.startswith("holdfast")]
    if token:
        assert not [record for record in ours if token in record.getMessage()]
        assert token not in answers[0].text


def test_token_opens_its_run_by_header_and_by_query(store: MemoryEventStore) -> None:
    token = stream_token("ended", settings=settings())
    with app_of(store, stream_access="token") as http:
        for door in DOORS:
            path = door.format("ended")
            both = http.get(path, headers={"authorization": f"Bearer {token}"})
            assert both.status_code == http.get(path, params={"token": token}).status_code == 200
        with http.websocket_connect(f"/runs/ended/events/ws?token={token}") as socket:
            assert socket.receive_json()["kind"] == "event"
        for query in ("", f"?token={stream_token('other', settings=settings())}"):
            with (
                pytest.raises(WebSocketDisconnect),
                http.websocket_connect(f"/runs/ended/events/ws{query}"),
            ):
                pass


# -- cross-origin


def test_listed_origin_may_read_with_credentials_and_no_other(store: MemoryEventStore) -> None:
    friend = "https://friend.example"
    with app_of(store, stream_allowed_origins=(friend,)) as http:
        answer = http.get(STREAM.format("ended"), headers={"origin": friend})
        assert answer.headers["access-control-allow-origin"] == friend
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in answer.headers["vary"]
        asked = {
            "origin": friend,
            "access-control-request-method": "GET",
            "access-control-request-headers": "last-event-id, authorization",
        }
        answer = http.options(STREAM.format("ended"), headers=asked)
        assert answer.status_code == 200
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert "last-event-id" in allowed
        assert "authorization" in allowed
        foe = {"origin": "https://foe.example"}
        answer = http.get(STREAM.format("ended"), headers=foe)
        assert "access-control-allow-origin" not in answer.headers
        answer = http.options(STREAM.format("ended"), headers={**asked, **foe})
        assert answer.status_code == 400
        # A page must be able to read why it was refused.
        answer = http.get(STREAM.format("absent") + "?wait=0", headers={"origin": friend})
        assert answer.headers["access-control-allow-origin"] == friend


def test_star_allows_everybody_without_credentials(store: MemoryEventStore) -> None:
    with app_of(store, stream_allowed_origins=("*",)) as http:
        answer = http.get(STREAM.format("ended"), headers={"origin": "https://any.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


# -- bounds, health, start


def test_one_reader_too_many_is_told_to_come_back(store: MemoryEventStore) -> None:
    with app_of(store, stream_max_subscribers=1, stream_retry=2) as http:
        with http.websocket_connect("/runs/open/events/ws") as socket:
            socket.receive_json()
            answer = http.get(STREAM.format("open"))
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert 5000 <= int(answer.text.removeprefix("retry: ")) <= 15000
            with (
                http.websocket_connect("/runs/open/events/ws") as second,
                pytest.raises(WebSocketDisconnect) as refused,
            ):
                second.receive_json()
            assert refused.value.code == 1013
        assert http.get(STREAM.format("ended")).text.count("event: ") == 4


def test_health_is_answered_without_access(store: MemoryEventStore) -> None:
    with app_of(store, stream_access="token") as http:
        assert http.get("/livez").json() == {"status": "ok"}
        answer = http.get("/readyz")
        streams = {"runs": 0, "subscribers": 0}
        body = {"status": "ok", "redis": "off", "streams": streams}
        assert (answer.status_code, answer.json()) == (200, body)
        assert answer.headers["cache-control"] == "no-store"


def test_required_redis_that_is_away_makes_it_unready(free_port: int) -> None:
    url = f"redis://127.0.0.1:{free_port}/0"
    with TestClient(EventStreamApp(settings=settings(redis_url=url))) as http:
        answer = http.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["status"] == "degraded"
        assert answer.json()["reason"] == "refused"
        assert http.get(HISTORY.format("r")).headers["retry-after"] == "2"
    required = EventStreamApp(settings=settings(redis_url=url, redis_required=True))
    assert TestClient(required).get("/readyz").status_code == 503


def test_wrong_setting_is_raised_to_who_makes_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_STREAM_MAXLEN", "many")
    with pytest.raises(ConfigurationError, match="HOLDFAST_STREAM_MAXLEN"):
        EventStreamApp()


async def test_wrong_setting_under_a_running_loop_is_logged_and_answered_503(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOLDFAST_STREAM_MAXLEN", "many")
    app = EventStreamApp()
    assert "HOLDFAST_STREAM_MAXLEN" in caplog.text
    http = TestClient(Starlette(routes=[Mount("/streams", app)]))
    assert (await asyncio.to_thread(http.get, "/streams/livez")).status_code == 503


# -- any way of serving


@pytest.mark.parametrize("lifespan", [True, False])
def test_mounted_app_works_with_and_without_a_lifespan(
    store: MemoryEventStore, lifespan: bool
) -> None:
    app = Starlette(routes=[Mount("/a/b", EventStreamApp(settings=settings(), store=store))])
    http = TestClient(app)
    if lifespan:
        with http:
            assert http.get("/a/b" + STREAM.format("ended")).text.count("event: ") == 4
    for _ in range(3):
        assert http.get("/a/b" + STREAM.format("ended")).text.count("event: ") == 4
        with http.websocket_connect("/a/b/runs/ended/events/ws") as socket:
            assert [socket.receive_json()["kind"] for _ in range(5)] == [*["event"] * 4, "end"]


def test_callable_decides_and_is_asked_for_each_run(
    store: MemoryEventStore,
) -> None:
    with app_of(store, stream_access=f"{__name__}:only_ended") as http:
        assert http.get(HISTORY.format("ended")).status_code == 200
        assert http.get(HISTORY.format("open")).status_code == 403


def test_callable_that_fails_is_a_problem_at_every_door(store: MemoryEventStore) -> None:
    with app_of(store, stream_access=f"{__name__}:fails") as http:
        for path in (HISTORY.format("open"), STREAM.format("open"), "/events/stream?run=open"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (500, "ACCESS_FAILED")
            assert answer.headers["content-type"] == "application/problem+json"
        for method in ("events", "stop"):
            answer = http.post(f"/runs/open/{method}", json={"type": "t"})
            assert (answer.status_code, answer.json()["code"]) == (500, "ACCESS_FAILED")
        for path in ("/runs/open/events/ws", "/events/ws?run=open"):
            with pytest.raises(WebSocketDenialResponse) as refused, http.websocket_connect(path):
                pass
            assert refused.value.status_code == 500
        with http.websocket_connect("/events/ws") as socket:
            socket.send_json({"kind": "add", "run_id": "open"})
            told = socket.receive_json()
            assert told == {"kind": "error", "run_id": "open", "code": "ACCESS_FAILED"}


async def fails(connection: WebSocket, run_id: str, action: str) -> bool:
    raise ZeroDivisionError


def test_head_says_nothing_of_the_length_of_a_stream(store: MemoryEventStore) -> None:
    with app_of(store, stream_access="open") as http:
        for path in (STREAM.format("open"), "/events/stream?run=open"):
            answer = http.head(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert "content-length" not in answer.headers
        assert int(http.head(HISTORY.format("open")).headers["content-length"]) > 0


async def only_ended(connection: WebSocket, run_id: str, action: str) -> bool:
    return run_id == "ended" and action == "read" and connection.url.path != ""


def test_events_of_a_page_are_whole(http: TestClient) -> None:
    body = http.get(HISTORY.format("ended")).json()
    assert (body["run_id"], body["status"]) == ("ended", "ended")
    event = body["events"][0]
    assert list(event) == ["id", "type", "data", "created_at"]
    ms = int(event["id"].partition("-")[0])
    assert event["created_at"] == time.strftime(
        f"%Y-%m-%dT%H:%M:%S.{ms % 1000:03d}Z", time.gmtime(ms // 1000)
    )
    assert json.dumps(event["data"]) == '{"n": 1}'
