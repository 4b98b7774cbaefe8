"""The sub-app by WSGI: the answers of the ASGI one, from one loop for all threads of a process."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from starlette.testclient import TestClient
from tests.frameworks.wsgi_client import Answer, answer_of
from tests.streams.wsgi_reader import Reader, request, until
from tests.support.threads import no_threads

from holdfast import (
    EventStreamApp,
    Settings,
    SyncRunPublisher,
    WSGIEventStreamApp,
    WSGISessionMiddleware,
    stream_token,
)
from holdfast.runtime import aclose, runtime
from holdfast.streams import shutdown
from holdfast.streams.select import default_store, hubs_of
from holdfast.streams.stores.memory import MemoryEventStore
from holdfast.streams.wsgi import app as wsgi
from holdfast.streams.wsgi.crossing import Crossing
from holdfast.streams.wsgi.environ import body_size, raw_path, scope_of
from holdfast.streams.wsgi.leaving import Leaving
from holdfast.streams.wsgi.loop import Life, LoopThread

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from starlette.requests import HTTPConnection
    from starlette.types import Receive, Scope, Send

    from holdfast.testing import RedisServer

KEY = "a key of more than sixteen characters"


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest, redis: RedisServer, key_prefix: str) -> Settings:
    """Everyone may read; ``ended`` is over."""
    more: dict[str, Any] = {}
    if request.param == "redis":
        # A busy machine is slow, not away.
        more = {"redis_url": redis.url, "key_prefix": key_prefix, "redis_timeout": 10}
    found = Settings(secret_key=KEY, stream_access="open", **more)
    publish("ended", found, 3, end=True)
    return found


def publish(run_id: str, settings: Settings, count: int, *, end: bool = False) -> list[str]:
    publisher = SyncRunPublisher(run_id, settings=settings)
    ids = [publisher.emit("t", {"n": n}).id for n in range(1, count + 1)]
    return [*ids, publisher.workflow_complete().id] if end else ids


def ask(app: Any, path: str, method: str = "GET", body: bytes = b"", **more: Any) -> Answer:
    return answer_of(validator(app), request(path, method, body, **more))


def json_of(answer: Answer) -> Any:
    return json.loads(answer.body)


def subscribers(settings: Settings) -> int:
    hubs = hubs_of(default_store(runtime(settings)))
    return sum(len(hub.subscribers) for hub in list(hubs.values()))


# -- the same answers


EVENT = b'{"type":"t","data":1}'
SAME: list[tuple[str, str, bytes, dict[str, str]]] = [
    ("GET", "/runs/ended/events", b"", {}),
    ("GET", "/runs/ended/events?limit=2", b"", {}),
    ("GET", "/runs/ended/events?limit=0", b"", {}),
    ("GET", "/runs/none/events", b"", {}),
    ("HEAD", "/runs/ended/events", b"", {}),
    ("GET", "/runs/ended/events/stream", b"", {}),
    ("GET", "/runs/ended/events/stream?envelope=1", b"", {}),
    ("GET", "/runs/ended/events", b"", {"accept": "text/event-stream"}),
    ("HEAD", "/runs/ended/events/stream", b"", {}),
    ("GET", "/runs/ended/events/stream?last_id=x", b"", {}),
    ("GET", "/runs/ended/events/stream?last_id=$", b"", {}),
    ("GET", "/runs/none/events/stream?wait=0", b"", {}),
    ("GET", "/events/stream?run=ended&wait=0", b"", {}),
    ("GET", "/events/stream", b"", {}),
    ("GET", "/events/stream?run=none&wait=0", b"", {}),
    ("POST", "/runs/new/events", EVENT, {}),
    ("POST", "/runs/new/events", b"{", {"authorization": "Bearer {token}"}),
    ("POST", "/runs/new/events", EVENT, {"authorization": "Bearer {token}"}),
    ("POST", "/runs/new/stop", b"", {}),
    ("POST", "/runs/ended/stop", b"", {"authorization": "Bearer {token}"}),
    ("POST", "/runs/open/stop", b"", {"authorization": "Bearer {token}"}),
    ("PUT", "/runs/ended/events", b"", {}),
    ("OPTIONS", "/runs/ended/events", b"", {}),
    ("GET", "/nothing", b"", {}),
    ("GET", "/runs/a{b/events", b"", {}),
    ("GET", "/livez", b"", {}),
    ("GET", "/readyz", b"", {}),
    ("GET", "/openapi.json", b"", {}),
    ("GET", "/docs", b"", {}),
    ("GET", "/holdfast.js", b"", {}),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    SAME,
    ids=[f"{n}-{method}-{path.strip('/')}" for n, (method, path, *_) in enumerate(SAME)],
)
def test_it_answers_as_by_asgi(
    method: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    settings = Settings(secret_key=KEY, stream_access="open")
    run_id, action = path.split("/")[2:4] if path.startswith("/runs/") else ("", "")
    actions = ["stop" if action == "stop" else "publish"]
    token = stream_token(
        "new" if "{" in run_id else run_id or "new", actions=actions, settings=settings
    )
    headers = {name: value.format(token=token) for name, value in headers.items()}
    answers = []
    for make in (EventStreamApp, WSGIEventStreamApp):
        store = MemoryEventStore()
        for run_id, last in (("ended", "workflow_complete"), ("open", "t")):
            publisher = SyncRunPublisher(run_id, store=store)
            publisher.emit("t", {"n": 1})
            publisher.emit(last, {})
        answers.append(make(settings=settings, store=store))
    asgi, wsgi = answers
    with TestClient(asgi) as client:  # type: ignore[arg-type]
        kind = {"content-type": "application/json"} if body else {}
        expected = client.request(method, path, content=body, headers=headers | kind)
    answer = ask(wsgi, path, method, body, headers=headers)
    assert answer.code == expected.status_code
    ours = {name: value for name, value in answer.headers if name not in SIZES}
    theirs = {name: value for name, value in expected.headers.items() if name not in SIZES}
    if answer.code == 202:
        ours.pop("content-type")
    assert ours == theirs
    assert untimed(answer.body.decode()) == untimed(expected.text)


SIZES = {"content-length", "etag"}


def untimed(text: str) -> list[str]:
    """What is said, but for when, and under which ids."""
    text = re.sub(r"\d{10,}-\d+|\d{4}-\d\d-\d\dT[\d:.]+Z|retry: \d+", "*", text)
    return re.sub(r'(?m)^id: .*$|"cursor":"[^"]*"', "id", text).split("\n")


# -- live


def test_events_arrive_while_they_are_published(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    with Reader(validator(app), "/runs/r/events/stream") as reader:
        until(lambda: subscribers(settings) == 1)
        first = publish("r", settings, 3)
        reader.until(lambda each: each.ids == first)
        second = publish("r", settings, 2, end=True)
        reader.until(lambda each: each.over)
    assert reader.ids == first + second
    assert reader.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_who_comes_back_goes_on_where_he_was(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    ids = publish("r", settings, 5)
    with Reader(app, "/runs/r/events/stream", headers={"last-event-id": ids[1]}) as reader:
        reader.until(lambda each: len(each.ids) == 3)
        ids += publish("r", settings, 1, end=True)
        reader.until(lambda each: each.over)
    assert reader.ids == ids[2:]


def test_many_runs_come_over_one_stream(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    with Reader(validator(app), "/events/stream?run=a&run=b") as reader:
        until(lambda: subscribers(settings))
        publish("a", settings, 2, end=True)
        publish("b", settings, 2, end=True)
        reader.until(lambda each: each.over)
    told = [(each["run_id"], each["kind"]) for each in reader.events]
    assert sorted(told) == [
        ("a", "end"),
        *[("a", "event")] * 3,
        ("b", "end"),
        *[("b", "event")] * 3,
    ]


def test_one_loop_serves_every_reader_and_publisher_of_a_process(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    before = threading.active_count()
    readers = [Reader(app, f"/runs/r{n % 3}/events/stream") for n in range(12)]
    for reader in readers:
        reader.start()
    until(lambda: subscribers(settings) == 12)
    assert len(hubs_of(default_store(runtime(settings)))) == 1
    assert threading.active_count() <= before + 12 + 2, "the loop, and the supervisor of the link"
    for n in range(3):
        publish(f"r{n}", settings, 4, end=True)
    for reader in readers:
        reader.until(lambda each: each.over)
        assert [each["n"] for each in reader.events[:-1]] == [1, 2, 3, 4]


def test_a_client_that_is_found_gone_by_a_write_is_let_go(settings: Settings) -> None:
    own = settings.override(stream_heartbeat=0.1)
    publish("r", own, 1)
    with Reader(WSGIEventStreamApp(settings=own), "/runs/r/events/stream") as reader:
        until(lambda: subscribers(own) == 1)
        reader.leave()
        reader.until(lambda each: each.over)
    until(lambda: not subscribers(own))


@pytest.mark.parametrize("path", ["/runs/r/events/stream", "/runs/not-begun/events/stream"])
def test_a_client_that_leaves_is_seen_by_the_servers_own_socket(
    path: str, settings: Settings
) -> None:
    app = WSGIEventStreamApp(settings=settings)
    publish("r", settings, 1)
    ours, theirs = socket.socketpair()
    with ours, theirs, Reader(app, path, **{"gunicorn.socket": ours}) as reader:
        until(lambda: subscribers(settings) == 1)
        theirs.close()
        reader.until(lambda each: each.over)
        assert os.fstat(ours.fileno()), "it is the server's to close"
        assert reader.error is None
    until(lambda: not subscribers(settings))


def test_who_asks_for_something_else_meanwhile_has_not_left(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    ids = publish("r", settings, 1)
    ours, theirs = socket.socketpair()
    with ours, theirs, Reader(app, "/runs/r/events/stream", **{"gunicorn.socket": ours}) as reader:
        until(lambda: subscribers(settings) == 1)
        theirs.send(b"GET /next HTTP/1.1")
        ids += publish("r", settings, 1)
        reader.until(lambda each: each.ids == ids)
        assert ours.recv(3) == b"GET", "nothing of it was read"
        publish("r", settings, 1, end=True)
        reader.until(lambda each: each.over)


def test_a_connection_that_is_reset_is_seen_too(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    publish("r", settings, 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, Reader(app, "/runs/r/events/stream", **{"werkzeug.socket": ours}) as reader:
        until(lambda: subscribers(settings) == 1)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        reader.until(lambda each: each.over)


def test_a_socket_that_cannot_be_watched_is_left_alone(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    ids = publish("r", settings, 1)
    closed = socket.socket()
    closed.close()
    with Reader(app, "/runs/r/events/stream", **{"gunicorn.socket": closed}) as reader:
        reader.until(lambda each: each.ids == ids)
        publish("r", settings, 1, end=True)
        reader.until(lambda each: each.over)


async def test_the_servers_socket_goes_on_to_wait_whatever_the_default_is() -> None:
    ours, theirs = socket.socketpair()
    leaving = Leaving(asyncio.get_running_loop(), {"gunicorn.socket": ours})
    with ours, theirs:
        socket.setdefaulttimeout(5)
        try:
            waiting = asyncio.create_task(leaving.wait())
            await asyncio.sleep(0)
        finally:
            socket.setdefaulttimeout(None)
        assert os.get_blocking(ours.fileno())
        leaving.leave()
        await waiting


async def test_a_socket_that_has_nothing_to_say_is_that_of_one_who_is_there() -> None:
    ours, theirs = socket.socketpair()
    leaving = Leaving(asyncio.get_running_loop(), {"gunicorn.socket": ours})
    with ours, theirs:
        waiting = asyncio.create_task(leaving.wait())
        await asyncio.sleep(0)
        leaving._look(ours)
        assert not waiting.done()
        theirs.close()
        await asyncio.wait_for(waiting, 20)


def test_for_who_takes_nothing_the_app_waits(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    publish("r", settings, 1)
    with Reader(app, "/runs/r/events/stream") as reader:
        reader.until(lambda each: each.ids)
        reader.go_on.clear()
        publish("r", settings, 1)
        reader.until(lambda each: len(each.ids) == 2)
        taken = len(reader.parts)
        for _ in range(60):
            publish("r", settings, 1)
            time.sleep(0.01)  # each would be a part of its own
        publish("r", settings, 1, end=True)
        reader.go_on.set()
        reader.until(lambda each: each.over)
    assert len(reader.ids) == 64
    assert len(reader.parts) - taken < 30, "what waited came together"


ONE_AT_A_TIME: dict[str, Any] = {"wsgi.multithread": False}


def test_a_server_of_one_request_at_a_time_is_given_back(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = WSGIEventStreamApp(settings=settings)
    ids = publish("r", settings, 2)
    for _ in range(2):
        answer = ask(app, "/runs/r/events/stream", **ONE_AT_A_TIME)
        assert [line[4:].decode() for line in answer.body.split(b"\n") if line[:3] == b"id:"] == ids
        assert answer.body.startswith(b"retry: ")
    until(lambda: not subscribers(settings))
    assert caplog.text.count("one request at a time") == 1


def test_it_is_given_back_also_by_a_run_that_is_never_silent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi, "TURN", 0.1)
    monkeypatch.setattr(wsgi, "SILENCE", 20.0)
    app = WSGIEventStreamApp(settings=settings)
    enough = threading.Event()

    def chatter() -> None:
        last = time.monotonic() + 10
        while not enough.wait(0.002) and time.monotonic() < last:
            publish("r", settings, 1)
        publish("r", settings, 1, end=True)

    publish("r", settings, 1)
    talking = threading.Thread(target=chatter)
    talking.start()
    try:
        answer = ask(app, "/runs/r/events/stream", **ONE_AT_A_TIME)
    finally:
        enough.set()
        talking.join()
    assert answer.body.startswith(b"retry: ")
    assert answer.body.endswith(b"\n\n"), "no event is cut"
    assert b"workflow_complete" not in answer.body, "it has not waited for the end"
    until(lambda: not subscribers(settings))


@pytest.mark.parametrize(("wait", "status"), [("30", 200), ("0.01", 404)])
def test_it_is_given_back_by_who_waits_for_a_run_to_begin(
    wait: str, status: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi, "SILENCE", 0.05)
    app = WSGIEventStreamApp(settings=settings)
    answer = ask(app, f"/runs/later/events/stream?wait={wait}", **ONE_AT_A_TIME)
    assert answer.code == status
    # A 404 would stop the browser for good, before the run that it waits for has begun.
    assert answer.body.startswith(b"retry: ") == (status == 200)


# -- what is sent


def test_the_same_key_publishes_once(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    token = stream_token("r", actions=["publish"], settings=settings)
    headers = {"authorization": f"Bearer {token}", "idempotency-key": "k-1"}
    answers = [ask(app, "/runs/r/events", "POST", EVENT, headers=headers) for _ in range(2)]
    assert [each.code for each in answers] == [201, 201]
    assert json_of(answers[0]) == json_of(answers[1])
    assert ask(app, "/runs/r/events", "POST", b'{"type":"u"}', headers=headers).code == 422
    assert len(json_of(ask(app, "/runs/r/events"))["events"]) == 1


def test_a_run_is_stopped(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    publisher = SyncRunPublisher("r", settings=settings)
    publisher.emit("t")
    token = stream_token("r", actions=["stop"], settings=settings)
    answer = ask(app, "/runs/r/stop", "POST", headers={"authorization": f"Bearer {token}"})
    assert answer.code == 202
    assert publisher.wait_stop(10)


class Body(io.RawIOBase):
    """What a server reads from its client, piece by piece."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.asked = list(pieces), 0
        self.sizes: list[int] = []

    def read(self, size: int = -1) -> bytes:
        self.asked += 1
        self.sizes.append(size)
        return self.pieces.pop(0) if self.pieces else b""


def publishing(settings: Settings, body: Any, **more: Any) -> tuple[WSGIEventStreamApp, Any]:
    token = stream_token("r", actions=["publish"], settings=settings)
    headers = {"authorization": f"Bearer {token}"} | more.pop("headers", {})
    more["CONTENT_TYPE"] = "application/json"
    environ = request("/runs/r/events", "POST", headers=headers, **more)
    return WSGIEventStreamApp(settings=settings), {**environ, "wsgi.input": body}


def test_a_body_of_no_announced_length_is_read_to_its_end(settings: Settings) -> None:
    chunked = {"wsgi.input_terminated": True, "headers": {"transfer-encoding": "chunked"}}
    app, environ = publishing(settings, Body(EVENT[:5], EVENT[5:]), **chunked)
    assert answer_of(app, environ).code == 201


def test_no_more_of_a_body_is_read_than_was_announced(settings: Settings) -> None:
    body = Body(EVENT[:5], EVENT[5:])
    app, environ = publishing(settings, body, CONTENT_LENGTH=str(len(EVENT)))
    assert answer_of(app, environ).code == 201
    assert body.sizes == [len(EVENT), len(EVENT) - 5]


def test_of_a_body_that_breaks_off_nothing_is_published(settings: Settings) -> None:
    app, environ = publishing(settings, Body(EVENT), CONTENT_LENGTH="1000")
    assert answer_of(app, environ).code == 400
    assert ask(app, "/runs/r/events").code == 404


def test_an_error_of_the_connection_is_the_servers(settings: Settings) -> None:
    class Broken(Body):
        def read(self, size: int = -1) -> bytes:
            raise ConnectionResetError("gone")

    app, environ = publishing(settings, Broken(), CONTENT_LENGTH="10")
    with pytest.raises(ConnectionResetError):
        answer_of(app, environ)


def test_a_body_is_read_only_from_who_may_publish_and_only_if_it_can_be_right(
    settings: Settings,
) -> None:
    body = Body(EVENT)
    app, environ = publishing(settings, body, CONTENT_LENGTH="100000000")
    assert answer_of(app, environ).code == 413
    app, environ = publishing(
        settings, body, CONTENT_LENGTH="20", headers={"authorization": "Bearer x"}
    )
    assert answer_of(app, environ).code == 401
    assert body.asked == 0


def test_a_failure_of_ours_is_the_servers_to_tell_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(MemoryEventStore):
        async def describe(self, run_id: str) -> Any:
            raise ZeroDivisionError

    settings = Settings(secret_key=KEY, stream_access="open")
    app = WSGIEventStreamApp(settings=settings, store=Failing())
    with pytest.raises(RuntimeError, match="the log says why"):
        ask(app, "/runs/r/events")
    assert "ZeroDivisionError" in caplog.text


def test_addresses_of_websockets_say_what_to_do(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    for path in ("/runs/r/events/ws", "/events/ws"):
        answer = ask(app, path, headers={"upgrade": "websocket"})
        assert (answer.code, json_of(answer)["code"]) == (501, "NO_WEBSOCKET")
        assert "event stream" in json_of(answer)["title"]


# -- the environ


@pytest.mark.parametrize(
    ("path", "raw", "found"),
    [
        ("/runs/a/b/events", "/streams/runs/a%2Fb/events?x=/", b"/runs/a%2Fb/events"),
        ("/runs/a b/events", "http://host/p/runs/a%20b/events", b"/runs/a%20b/events"),
        ("/runs/\xc3\xa4/events", "/runs/%C3%A4/events", b"/runs/%C3%A4/events"),
        ("/runs/new/events", "/runs/old/events", None),
        ("/runs/r/events", "/s/events", None),
        ("/runs/r/events", "", None),
        ("", "", None),
    ],
    ids=["slash", "absolute", "umlaut", "rewritten", "shorter", "none", "empty"],
)
@pytest.mark.parametrize("name", ["RAW_URI", "REQUEST_URI"])
def test_the_path_as_it_was_sent(path: str, raw: str, found: bytes | None, name: str) -> None:
    assert raw_path({name: raw}, path.encode("latin-1")) == found


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({}, 0),
        ({"CONTENT_LENGTH": ""}, 0),
        ({"CONTENT_LENGTH": "12"}, 12),
        ({"CONTENT_LENGTH": "-1"}, 0),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 0),
        ({"wsgi.input_terminated": True}, 0),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}, None),
        ({"CONTENT_LENGTH": "12", "REQUEST_METHOD": "GET"}, 0),
    ],
    ids=["none", "empty", "12", "negative", "unmarked", "unsaid", "chunked", "get"],
)
def test_how_much_of_a_body_follows(environ: WSGIEnvironment, size: int | None) -> None:
    assert body_size(environ) == size


def test_a_scope_says_where_it_is_mounted_and_who_asks() -> None:
    environ = request(
        "/runs/\xc3\xa4/events?x=1",
        SCRIPT_NAME="/a b",
        RAW_URI="/a%20b/runs/%c3%a4/events",
        REMOTE_PORT="7",
        HTTP_X_ONE="1",
        CONTENT_LENGTH="",
    )
    scope = scope_of(environ)
    assert (scope["root_path"], scope["path"]) == ("/a b", "/a b/runs/ä/events")
    assert scope["raw_path"] == b"/a%20b/runs/%c3%a4/events"
    assert (scope["query_string"], scope["client"]) == (b"x=1", ("192.0.2.7", 7))
    assert (b"x-one", b"1") in scope["headers"]
    assert scope["wsgi.environ"] is environ
    assert "session" not in scope


def test_a_run_with_a_slash_is_found_where_the_server_tells_what_was_sent(
    settings: Settings,
) -> None:
    publish("a/b", settings, 1)
    app = WSGIEventStreamApp(settings=settings)
    here: dict[str, Any] = {"SCRIPT_NAME": "/streams"}
    told = ask(app, "/runs/a/b/events", RAW_URI="/streams/runs/a%2Fb/events", **here)
    assert json_of(told)["run_id"] == "a/b"
    assert ask(app, "/runs/a/b/events", **here).code == 400


# -- who may


async def only_ada(connection: HTTPConnection, run_id: str, action: str) -> bool:
    """What ``HOLDFAST_STREAM_ACCESS`` names in a test: on the loop, with the environ at hand."""
    await asyncio.sleep(0)
    environ: WSGIEnvironment = connection.scope["wsgi.environ"]
    return environ.get("REMOTE_USER") == "ada"


def test_a_callable_may_await_and_sees_the_environ(settings: Settings) -> None:
    own = settings.override(stream_access=f"{__name__}:only_ada")
    app = WSGIEventStreamApp(settings=own)
    publish("r", own, 1)
    assert ask(app, "/runs/r/events").code == 403
    assert ask(app, "/runs/r/events", REMOTE_USER="ada").code == 200


class Site:
    """An application with logins, and the streams beside it under the same sessions."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cookie = ""
        self.token = ""
        self._streams = WSGIEventStreamApp(settings=settings)
        self.app = WSGISessionMiddleware(self._serve, settings=settings)

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        session = environ["holdfast.session"]
        if environ["PATH_INFO"] == "/login":
            session["user_id"] = "ada"
            session.save()
            self.token = stream_token("bound", session=session, settings=self.settings)
        elif environ["PATH_INFO"] == "/logout":
            session.invalidate()
        else:
            return self._streams(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"done"]

    def visit(self, path: str, **more: Any) -> Answer:
        answer = ask(self.app, path, **self.with_cookie, **more)
        if answer.set_cookie:
            self.cookie = answer.set_cookie.partition(";")[0]
        return answer

    def read(self, path: str) -> Reader:
        return Reader(self.app, path, **self.with_cookie)

    @property
    def with_cookie(self) -> dict[str, Any]:
        return {"HTTP_COOKIE": self.cookie} if self.cookie else {}


def test_a_session_reads_its_own_runs_until_it_ends(settings: Settings) -> None:
    site = Site(settings.override(stream_access="session"))
    SyncRunPublisher("mine", owner="user:ada", settings=site.settings).emit("t")
    SyncRunPublisher("theirs", owner="user:bob", settings=site.settings).emit("t")
    assert site.visit("/runs/mine/events").code == 401
    site.visit("/login")
    assert site.visit("/runs/mine/events").code == 200
    assert site.visit("/runs/mine/events").one("vary") == "Accept, Cookie"
    assert site.visit("/runs/theirs/events").code == 403
    with site.read("/runs/mine/events/stream") as reader:
        reader.until(lambda each: each.ids)
        site.visit("/logout")
        reader.until(lambda each: each.over)
    until(lambda: not subscribers(site.settings))


def test_after_a_logout_the_run_that_begins_is_nobodys_who_waited(settings: Settings) -> None:
    site = Site(settings.override(stream_access="session"))
    site.visit("/login")
    with site.read("/runs/late/events/stream?wait=60") as reader:
        until(lambda: subscribers(site.settings) == 1)
        site.visit("/logout")
        SyncRunPublisher("late", owner="user:ada", settings=site.settings).emit("t")
        reader.until(lambda each: each.over)
    assert reader.ids == []


def test_what_a_bound_token_opened_ends_with_its_session(settings: Settings) -> None:
    site = Site(settings.override(stream_access="token"))
    SyncRunPublisher("bound", settings=site.settings).emit("t")
    site.visit("/login")
    path = f"/runs/bound/events/stream?token={site.token}"
    assert ask(site.app, path).code == 401, "it is good with the cookie of its session alone"
    with site.read(path) as reader:
        reader.until(lambda each: each.ids)
        site.visit("/logout")
        reader.until(lambda each: each.over)
    assert site.visit(path).code == 401


def test_a_logout_ends_nothing_that_did_not_look_at_the_session(settings: Settings) -> None:
    site = Site(settings)
    site.visit("/login")
    publish("r", settings, 1)
    with site.read("/runs/r/events/stream") as reader:
        reader.until(lambda each: each.ids)
        site.visit("/logout")
        ids = publish("r", settings, 1, end=True)
        reader.until(lambda each: each.over)
    assert reader.ids[1:] == ids


# -- processes


def test_memory_is_refused_where_there_are_other_processes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = WSGIEventStreamApp(settings=Settings(secret_key=KEY, stream_access="open"))
    several: dict[str, Any] = {"wsgi.multiprocess": True}
    for _ in range(2):
        assert ask(app, "/runs/r/events", **several).code == 503
    assert caplog.text.count("HOLDFAST_REDIS_URL, or run one worker") == 1
    own = WSGIEventStreamApp(settings=Settings(secret_key=KEY), store=MemoryEventStore())
    assert ask(own, "/livez", **several).code == 200


def test_close_lets_everybody_go_and_takes_nobody(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    publish("r", settings, 1)
    with Reader(app, "/runs/r/events/stream") as reader:
        reader.until(lambda each: each.ids)
        app.close()
        reader.until(lambda each: each.over)
    assert ask(app, "/readyz").code == 503
    assert ask(app, "/runs/r/events/stream").body.startswith(b"retry: ")


def test_the_signal_of_a_server_ends_streams(settings: Settings) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        app = WSGIEventStreamApp(settings=settings)
        with Reader(app, "/runs/open/events/stream") as reader:
            until(lambda: subscribers(settings) == 1)
            signal.raise_signal(signal.SIGTERM)
            reader.until(lambda each: each.over)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
        shutdown._stopping_pid = None


def test_signals_are_left_alone_where_a_variable_says_so(settings: Settings) -> None:
    def mine(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        app = WSGIEventStreamApp(settings=settings.override(stream_handle_signals=False))
        ask(app, "/livez")
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_closing_ends_streams_and_the_thread_and_the_next_request_begins_anew(
    settings: Settings,
) -> None:
    before = set(threading.enumerate())
    app = WSGIEventStreamApp(settings=settings)
    publish("r", settings, 1)
    with Reader(app, "/runs/r/events/stream") as reader:
        reader.until(lambda each: each.ids)
        asyncio.run(aclose())
        reader.until(lambda each: each.over)
        reader.join(20)
    until(lambda: not [each for each in threading.enumerate() if each not in before])
    assert ask(app, "/livez").code == 200
    assert [each.name for each in threading.enumerate() if each not in before] == ["holdfast-loop"]
    asyncio.run(app._loop.aclose())


def test_a_loop_that_found_no_thread_is_begun_by_the_next_request(settings: Settings) -> None:
    publish("r", settings, 1)
    app = WSGIEventStreamApp(settings=settings)
    with no_threads(), pytest.raises(RuntimeError, match="thread"):
        ask(app, "/livez")
    with Reader(app, "/livez") as reader:
        reader.until(lambda each: each.over)
    assert reader.status == "200 OK"


def test_who_waits_for_a_loop_that_found_no_thread_is_told() -> None:
    life = Life()
    with no_threads(), pytest.raises(RuntimeError, match="thread"):
        life.start()
    with pytest.raises(RuntimeError, match="could not begin"):
        life.loop()


AT_THE_LIMIT_OF_FILES = """
import asyncio, os, resource
from holdfast.streams.wsgi.loop import LoopThread

threads, (soft, hard) = LoopThread(asyncio.sleep), resource.getrlimit(resource.RLIMIT_NOFILE)
os.close(free := os.dup(1))
resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
try:
    threads.life()
except RuntimeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(threads.life().loop().is_running())
"""


def test_a_loop_that_found_no_file_is_begun_by_the_next_request() -> None:
    command = [sys.executable, "-c", AT_THE_LIMIT_OF_FILES]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert told.stdout.splitlines() == ["the thread of the streams could not begin", "True"]


def test_a_wrong_variable_is_told_at_start() -> None:
    from holdfast.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="nowhere"):
        WSGIEventStreamApp(settings=Settings(stream_access="nowhere:at_all"))


UNDER_GEVENT = """
from gevent import monkey

monkey.patch_all()
import asyncio, os, socket
from holdfast.streams.wsgi.leaving import Leaving

ours, theirs = socket.socketpair()
done = []


def in_a_thread():
    async def look():
        leaving = Leaving(asyncio.get_running_loop(), {"gunicorn.socket": ours})
        waiting = asyncio.create_task(leaving.wait())
        await asyncio.sleep(0)
        leaving._look(leaving._peer)
        done.append(not waiting.done())
        leaving.leave()
        await waiting

    asyncio.run(look())


monkey.get_original("_thread", "start_new_thread")(in_a_thread, ())
for _ in range(2000):
    if done:
        break
    monkey.get_original("time", "sleep")(0.01)
os._exit(0 if done == [True] else 1)
"""


def test_under_gevent_a_look_at_a_silent_client_does_not_stop_the_loop() -> None:
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_whose_server_fails_at_the_head_is_there_no_more(settings: Settings) -> None:
    app = WSGIEventStreamApp(settings=settings)
    publish("r", settings, 1)
    reading = {**request("/runs/r/events/stream"), "wsgi.multithread": True}

    def failing(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        raise OSError("it can send no head")

    life = app._loop.life()
    with pytest.raises(OSError, match="no head"):
        app(reading, failing)
    until(lambda: not life.waiting)


async def _lasting(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def _environ() -> WSGIEnvironment:
    return {"REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO()}


async def test_a_request_cancelled_before_it_is_served_keeps_no_thread() -> None:
    thread = LoopThread(_nothing)
    life = thread.life()

    async def cancelled_at_once() -> Crossing:
        crossing = Crossing(life, _environ())
        crossing.begin(_lasting, {"type": "http"})
        before = asyncio.all_tasks()
        while not (begun := asyncio.all_tasks() - before):
            await asyncio.sleep(0)
        begun.pop().cancel()
        return crossing

    running = asyncio.run_coroutine_threadsafe(cancelled_at_once(), life.loop())
    crossing = await asyncio.wrap_future(running)
    assert await asyncio.to_thread(crossing.take, 20) is None
    await thread.aclose()


@pytest.mark.parametrize("when", ["closing", "ending"])
async def test_a_request_that_comes_while_the_loop_ends_keeps_no_thread(when: str) -> None:
    made: list[Crossing] = []

    def come() -> None:
        made.append(crossing := Crossing(life, _environ()))
        crossing.begin(_lasting, {"type": "http"})

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            come()

    async def closing() -> None:
        if when == "closing":
            come()

    thread = LoopThread(closing)
    life = thread.life()
    if when == "ending":
        # It is cancelled with all that is left, when no other can be any more.
        asyncio.run_coroutine_threadsafe(last(), life.loop())
    await thread.aclose()
    assert await asyncio.to_thread(made[0].take, 20) is None


async def test_who_waits_for_a_loop_is_told_that_it_has_ended_or_is_refused() -> None:
    thread = LoopThread(_nothing)
    life = thread.life()
    crossing = Crossing(life, _environ())
    # As one that comes after the loop's last turn, and before it is closed.
    life.waiting[crossing._end] = None
    await thread.aclose()
    assert await asyncio.to_thread(crossing.take, 20) is None
    assert not life.waiting
    with pytest.raises(RuntimeError, match="closed"):
        crossing.begin(_lasting, {"type": "http"})


async def _nothing() -> None: ...
