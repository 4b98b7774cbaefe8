"""Publishing and stopping over HTTP: what is written, what is refused, and what a retry is told."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from tests.streams.redis_stores import data_of, opened

from holdfast import EventStreamApp, RunPublisher, Settings, stream_token
from holdfast.streams.doors.publishing import fingerprint, idempotency_key, parse
from holdfast.streams.event import rfc3339
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

    from holdfast.streams.store import EventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio
KEY, TOKEN = "a-key-of-sixteen-characters-or-more", "a-publish-token-of-a-worker"
EVENTS, STOP = "/runs/r/events", "/runs/r/stop"
BEARER = f"Bearer {TOKEN}".encode()
EVENT = {"type": "t", "data": {"n": 1}}


def app_of(store: EventStore, **more: Any) -> ASGIApp:
    given = {"secret_key": KEY, "stream_publish_token": TOKEN, **more}
    return EventStreamApp(settings=Settings(**given), store=store)


def client_of(app: ASGIApp, token: str = TOKEN) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://h", headers=headers)


@pytest.fixture
async def http(store: EventStore) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(store)) as client:
        yield client


def told(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


# -- publishing


async def test_one_event_is_written_and_told(http: httpx.AsyncClient, store: EventStore) -> None:
    answer = await http.post(EVENTS, json=EVENT)
    (event,) = await store.get_events("r")
    assert (event.type, event.data) == ("t", {"n": 1})
    assert answer.status_code == 201
    created = rfc3339(event.created_at)
    assert answer.json() == {"events": [{"id": event.id, "type": "t", "created_at": created}]}
    assert answer.headers["cache-control"] == "no-store, no-transform"


async def test_a_list_is_written_in_order_and_may_end_the_run(
    http: httpx.AsyncClient, store: EventStore
) -> None:
    events = [{"type": "t", "data": n} for n in range(999)] + [{"type": "workflow_complete"}]
    answer = await http.post(EVENTS, json=events)
    assert [each["id"] for each in answer.json()["events"]] == [
        event.id for event in await store.get_events("r", limit=2000)
    ]
    assert await data_of(store, "r") == [*range(999), None]
    assert told(await http.post(EVENTS, json=EVENT)) == (409, "RUN_ENDED")


async def test_a_list_with_one_bad_event_is_not_written_at_all(
    http: httpx.AsyncClient, store: EventStore
) -> None:
    answer = await http.post(EVENTS, json=[EVENT, {"type": "holdfast.x"}, EVENT])
    assert told(answer) == (422, "INVALID_EVENT")
    assert answer.json()["detail"].startswith("event 1 of the list: ")
    assert await store.status("r") == "absent"


@pytest.mark.parametrize(
    "body",
    [
        *(1, "t", True, {}, [], [[]], [None], {"data": 1}, {"type": "t", "id": "1-0"}),
        *({"type": kind} for kind in ("", "a\nb", "x" * 257, "run_lost", "run_stopped", 5, None)),
        [{"type": "t"}] * 1001,
        [{"type": "workflow_complete"}, EVENT],
    ],
    ids=lambda body: json.dumps(body)[:30],
)
async def test_what_no_run_can_carry_is_422(http: httpx.AsyncClient, body: Any) -> None:
    assert told(await http.post(EVENTS, json=body)) == (422, "INVALID_EVENT")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b'{"type":"t","data":NaN}', b'{"type":"t","data":-Infinity}', b"\xff"),
        *(b"[" * 100_000, b'{"type":"t"} x', b"1" * 5000, b"\xef\xbb\xbf{}", b"type=t"),
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_what_is_no_json_is_400(http: httpx.AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await http.post(EVENTS, content=body, headers=headers)
    assert told(answer) == (400, "INVALID_JSON")


async def test_half_a_surrogate_pair_and_a_number_too_large_are_no_json_of_ours(
    http: httpx.AsyncClient,
) -> None:
    headers = {"content-type": "application/json"}
    for body in (
        b'{"type":"t","data":"\\ud800"}',
        b'{"type":"\\udc00"}',
        b'{"type":"t","data":1e400}',
    ):
        answer = await http.post(EVENTS, content=body, headers=headers)
        assert told(answer) == (422, "INVALID_EVENT")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=application/json"},
        {"content-type": "text/plain; application/json"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_what_a_form_could_send_is_not_read(
    http: httpx.AsyncClient, store: EventStore, headers: dict[str, str]
) -> None:
    answer = await http.post(EVENTS, content=json.dumps(EVENT), headers=headers)
    assert told(answer) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert await store.status("r") == "absent"


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/cloudevents+json"]
)
async def test_json_has_several_names(http: httpx.AsyncClient, kind: str) -> None:
    headers = {"content-type": kind, "content-encoding": "identity"}
    answer = await http.post(EVENTS, content=json.dumps(EVENT), headers=headers)
    assert answer.status_code == 201


async def test_an_event_larger_than_allowed_is_413() -> None:
    store = MemoryEventStore(max_event_bytes=100)
    async with client_of(app_of(store)) as http:
        just = {"type": "t", "data": "x" * 98}
        assert (await http.post(EVENTS, json=just)).status_code == 201
        above = {"type": "t", "data": "x" * 99}
        assert told(await http.post(EVENTS, json=[just, above])) == (413, "EVENT_TOO_LARGE")
        # Escaped it takes six times the room, and is no larger.
        escaped = json.dumps({"type": "t", "data": "\x7f" * 98}).replace("\x7f", "\\u007f")
        headers = {"content-type": "application/json"}
        assert (await http.post(EVENTS, content=escaped, headers=headers)).status_code == 201
    assert len(await data_of(store, "r")) == 2


async def test_a_body_is_read_no_further_than_its_bound() -> None:
    store, taken = MemoryEventStore(max_event_bytes=1 << 18), 0

    async def receive() -> Any:
        nonlocal taken
        taken += 1
        assert taken < 100, "it reads on and on"
        return {"type": "http.request", "body": b" " * 65536, "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + TOKEN.encode()),
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": EVENTS,
        "raw_path": EVENTS.encode(),
        "query_string": b"",
        "headers": headers,
    }
    await app_of(store)(scope, receive, send)
    assert sent[0]["status"] == 413
    assert taken == (2 << 20) // 65536 + 1
    taken = 0
    scope["headers"] = [*headers, (b"content-length", b"99999999999999999999999")]
    await app_of(store)(scope, receive, send)
    assert (sent[2]["status"], taken) == (413, 0)
    # A digit that only Unicode calls so (RFC 9110 section 8.6) says nothing of the length.
    scope["headers"] = [*headers, (b"content-length", b"\xb2")]
    await app_of(store)(scope, receive, send)
    assert sent[4]["status"] == 413


async def test_a_client_that_leaves_before_its_body_is_here_writes_nothing() -> None:
    store = MemoryEventStore()
    messages = [
        {"type": "http.request", "body": b'{"type":"t"}', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + TOKEN.encode()),
    ]
    await app_of(store)(
        {
            "type": "http",
            "method": "POST",
            "path": EVENTS,
            "raw_path": EVENTS.encode(),
            "query_string": b"",
            "headers": headers,
        },
        receive,
        send,
    )
    assert await store.status("r") == "absent"


async def test_an_expired_run_takes_nothing(http: httpx.AsyncClient, store: EventStore) -> None:
    await RunPublisher("r", store=store).workflow_complete()
    await store.set_expire("r", 0.001)
    await asyncio.sleep(0.01)
    assert told(await http.post(EVENTS, json=EVENT)) == (410, "RUN_EXPIRED")
    assert told(await http.post(STOP, headers=stop_token())) == (410, "RUN_EXPIRED")


# -- the idempotency key


async def test_a_key_writes_once_and_is_answered_the_same(
    http: httpx.AsyncClient, store: EventStore
) -> None:
    headers = {"idempotency-key": "a-key"}
    first = await http.post(EVENTS, json=[EVENT, EVENT], headers=headers)
    again = await http.post(EVENTS, json=[EVENT, EVENT], headers={"idempotency-key": '"a-key"'})
    assert (
        (again.status_code, again.json())
        == (first.status_code, first.json())
        == (201, again.json())
    )
    assert await data_of(store, "r") == [{"n": 1}] * 2
    other = await http.post(EVENTS, json=[EVENT], headers=headers)
    assert told(other) == (422, "IDEMPOTENCY_KEY_REUSED")
    elsewhere = await http.post("/runs/s/events", json=[EVENT], headers=headers)
    assert elsewhere.status_code == 201


@pytest.mark.parametrize(("first", "second"), [(EVENT, [EVENT]), ([EVENT], EVENT)])
async def test_one_event_and_a_list_of_it_are_two_bodies(
    http: httpx.AsyncClient, store: EventStore, first: Any, second: Any
) -> None:
    headers = {"idempotency-key": "a-key"}
    answer = await http.post(EVENTS, json=first, headers=headers)
    other = await http.post(EVENTS, json=second, headers=headers)
    assert told(other) == (422, "IDEMPOTENCY_KEY_REUSED")
    again = await http.post(EVENTS, json=first, headers=headers)
    assert (again.status_code, again.json()) == (201, answer.json())
    assert await data_of(store, "r") == [{"n": 1}]


async def test_of_concurrent_duplicates_one_is_written(
    http: httpx.AsyncClient, store: EventStore
) -> None:
    headers = {"idempotency-key": "a-key"}
    end = [EVENT, {"type": "workflow_complete"}]
    answers = await asyncio.gather(
        *(http.post(EVENTS, json=end, headers=headers) for _ in range(10))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert len(await data_of(store, "r")) == 2


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ('"8e03978e"', "8e03978e"),
        (r'"a \"b\" \\ c"', 'a "b" \\ c'),
        (" a ", "a"),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_key_is_a_structured_string_or_bare_text(text: str, key: str) -> None:
    assert idempotency_key(Headers({"idempotency-key": text})) == key


@pytest.mark.parametrize("text", ["", '""', "a b", '"a', 'a"', '"a"; b=1', "x" * 256, "é", '"\\x"'])
async def test_what_is_no_key_is_400(text: str) -> None:
    async with client_of(app_of(MemoryEventStore())) as http:
        headers = {b"idempotency-key": text.encode()}
        answer = await http.post(EVENTS, json=EVENT, headers=headers)
        assert told(answer) == (400, "INVALID_IDEMPOTENCY_KEY")
        twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
        assert told(await http.post(EVENTS, json=EVENT, headers=twice))[0] == 400
    assert idempotency_key(Headers({})) is None


def test_a_body_is_known_by_what_it_says_and_not_by_its_spelling() -> None:
    def mark(text: str) -> str:
        return fingerprint(parse(text.encode()))

    same = [
        '{"type":"t","data":"é"}',
        ' { "type" : "t", "data":"\\u00e9" } ',
        '{"data":"é","type":"t"}',
    ]
    assert len({mark(text) for text in same}) == 1
    one, other = '{"a":1,"b":[{"c":2,"d":3}]}', '{ "b" : [{"d":3,"c":2}], "a":1 }'
    assert mark(f'{{"type":"t","data":{one}}}') == mark(f'{{"data":{other},"type":"t"}}')
    others = [
        '[{"type":"t","data":"é"}]',
        '{"type":"t","data":"e"}',
        '{"type":"té","data":""}',
        '[{"type":"t","data":1},{"type":"t","data":2}]',
        '[{"type":"t","data":12},{"type":"t"}]',
        '{"type":"t1","data":2}',
        '{"type":"t","data":12}',
        '{"type":"t","data":"12"}',
        '{"type":"t","data":[1,2]}',
        '{"type":"t","data":[2,1]}',
    ]
    assert len({mark(text) for text in [*others, same[0]]}) == len(others) + 1


# -- readers


def test_a_reader_of_this_process_gets_what_is_published_at_once() -> None:
    with TestClient(app_of(MemoryEventStore(), stream_access="open")) as http:
        headers = {"authorization": f"Bearer {TOKEN}"}
        http.post(EVENTS, json=EVENT, headers=headers)
        with http.websocket_connect("/runs/r/events/ws") as socket:
            assert socket.receive_json()["data"] == {"n": 1}
            told = http.post(EVENTS, json={"type": "t", "data": 2}, headers=headers).json()
            frame = socket.receive_json()
            assert (frame["id"], frame["data"]) == (told["events"][0]["id"], 2)
            http.post(EVENTS, json={"type": "workflow_complete"}, headers=headers)
            assert [socket.receive_json()["kind"] for _ in range(2)] == ["event", "end"]


# -- an outage


async def test_while_redis_is_away_nothing_is_taken(redis: RedisServer, key_prefix: str) -> None:
    with FaultProxy("127.0.0.1", redis.port) as proxy:
        async with opened(proxy.url, key_prefix, redis_timeout=5) as store:
            async with client_of(app_of(store)) as http:
                assert (await http.post(EVENTS, json=EVENT)).status_code == 201
                proxy.refuse()
                proxy.cut()
                answer = await http.post(EVENTS, json=EVENT)
                assert told(answer) == (503, "UNAVAILABLE")
                assert answer.headers["retry-after"] == "2"
                assert told(await http.post(STOP, headers=stop_token())) == (503, "UNAVAILABLE")
            assert store.journalled == 0
            assert store.pending("r") is None
    async with opened(redis.url, key_prefix) as direct:
        assert await data_of(direct, "r") == [{"n": 1}]


# -- stopping


def stop_token(run: str = "r") -> dict[str, str]:
    token = stream_token(run, actions=["stop"], settings=Settings(secret_key=KEY))
    return {"authorization": f"Bearer {token}"}


async def test_a_run_is_asked_to_stop_as_often_as_one_likes(
    http: httpx.AsyncClient, store: EventStore
) -> None:
    publisher = RunPublisher("r", store=store)
    await publisher.emit("t", 1)
    for _ in range(2):
        answer = await http.post(STOP, headers=stop_token())
        assert (answer.status_code, answer.content) == (202, b"")
    assert (await store.append("r", [store.draft("t", 2)]))[0].stopping
    await publisher.workflow_complete()
    assert told(await http.post(STOP, headers=stop_token())) == (409, "RUN_ENDED")


async def test_a_run_not_yet_there_can_be_asked_to_stop(http: httpx.AsyncClient) -> None:
    assert (await http.post("/runs/new/stop", headers=stop_token("new"))).status_code == 202
