"""Capture where ``HOLDFAST_STREAM_CAPTURE`` names paths: inside an application's sessions."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import flask
import pytest
import quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.streams.capture.calls import Browser, events_of
from tests.streams.clients import until

import holdfast.asgi
from holdfast import Holdfast, SessionMiddleware, on_session_event
from holdfast.runtime import runtime
from holdfast.settings import Settings
from holdfast.streams.capture import call
from holdfast.streams.publishing.runs import close_runs
from holdfast.streams.select import default_store
from holdfast.wrapping.around import around_asgi, around_wsgi, bridged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIEnvironment

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

SETTINGS = Settings(secret_key=["a key of sixteen characters"], stream_capture="/feed")
CALLS: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    CALLS.clear()


async def three() -> AsyncIterator[str]:
    for number in range(3):
        yield f"data: {number}\n\n"


def starlette(**arguments: Any) -> Starlette:
    async def feed(request: Request) -> StreamingResponse:
        CALLS.append(request.url.path)
        request.session["seen"] = True
        return StreamingResponse(three(), media_type="text/event-stream")

    return Starlette(routes=[Route("/feed", feed)], **arguments)


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    CALLS.append(scope["path"])
    scope["session"]["seen"] = True
    answer = StreamingResponse(three(), media_type="text/event-stream")
    await answer(scope, receive, send)


OVER = threading.Event()


def lasting() -> Iterator[bytes]:
    yield b"data: 0\n\n"
    while not OVER.wait(0.05):
        yield b": still here\n\n"


def on_wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    CALLS.append(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    if environ["PATH_INFO"] == "/feed/open":
        return lasting()
    return (f"data: {number}\n\n".encode() for number in range(3))


def on_quart() -> Any:
    app = quart.Quart("site")

    @app.get("/feed")
    async def feed() -> quart.Response:
        CALLS.append("/feed")
        return quart.Response(three(), content_type="text/event-stream")

    @app.get("/feed/open")
    async def feed_open() -> quart.Response:
        async def going_on() -> AsyncIterator[str]:
            yield "data: 0\n\n"
            while not OVER.is_set():
                await asyncio.sleep(0.05)

        return quart.Response(going_on(), content_type="text/event-stream")

    return app


OWN_SESSIONS = [Middleware(SessionMiddleware, settings=SETTINGS)]


@pytest.mark.parametrize(
    ("made", "bound_to"),
    [
        (lambda: around_asgi(starlette(), SETTINGS), "session"),
        (lambda: around_asgi(starlette(middleware=OWN_SESSIONS), SETTINGS), "session"),
        (lambda: Holdfast(starlette(), settings=SETTINGS), "session"),
        (lambda: Holdfast(Holdfast(starlette(), settings=SETTINGS), settings=SETTINGS), "session"),
        (lambda: around_asgi(bare, SETTINGS), "session"),
        (lambda: Holdfast(bare, settings=SETTINGS), "session"),
        (lambda: around_asgi(on_quart(), SETTINGS), "holdfast_capture"),
        (lambda: Holdfast(on_quart(), settings=SETTINGS), "holdfast_capture"),
        (lambda: bridged(on_wsgi, SETTINGS), "holdfast_capture"),
    ],
    ids=[
        *("starlette", "with sessions", "equipped", "twice", "bare", "wrapped"),
        *("quart", "quart equipped", "wsgi bridged"),
    ],
)
def test_an_answer_is_resumed_without_the_application(made: Any, bound_to: str) -> None:
    app: ASGIApp = made()
    with TestClient(app) as client:
        first = client.get("/feed")
        ids = [line[4:] for line in first.text.split("\n") if line.startswith("id: ")]
        assert first.text.count("data: ") == 3
        assert set(client.cookies) == {bound_to}
        again = client.get("/feed", headers={"last-event-id": ids[0]})
        assert [line for line in again.text.split("\n") if line.startswith("data")] == [
            "data: 1",
            "data: 2",
        ]
        assert client.get("/feed", headers={"last-event-id": ids[-1]}).status_code == 204
    assert CALLS == ["/feed"]


def sessions_on_quart(*, equipped: bool) -> ASGIApp:
    app = on_quart()

    @app.get("/login")  # type: ignore[untyped-decorator]
    async def login() -> str:
        quart.session["user_id"] = "ada"
        return ""

    @app.get("/logout")  # type: ignore[untyped-decorator]
    async def logout() -> str:
        quart.session.clear()
        return ""

    made: Any = Holdfast(app, settings=SETTINGS) if equipped else around_asgi(app, SETTINGS)
    return made  # type: ignore[no-any-return]


def sessions_on_flask(**config: str) -> ASGIApp:
    app = flask.Flask("site")
    app.config.update(config)

    @app.get("/login")
    def login() -> str:
        flask.session["user_id"] = "ada"
        return ""

    @app.get("/logout")
    def logout() -> str:
        flask.session.clear()
        return ""

    @app.get("/feed")
    def feed() -> flask.Response:
        CALLS.append("/feed")
        return flask.Response(
            (f"data: {number}\n\n" for number in range(3)), content_type="text/event-stream"
        )

    @app.get("/feed/open")
    def feed_open() -> flask.Response:
        return flask.Response(lasting(), content_type="text/event-stream")

    return bridged(app, SETTINGS)


def sessions_on_wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    session = environ["holdfast.session"]
    if environ["PATH_INFO"] == "/login":
        session["user_id"] = "ada"
    elif environ["PATH_INFO"] == "/logout":
        session.clear()
    else:
        return on_wsgi(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


INSIDE = pytest.mark.parametrize(
    "made",
    [
        lambda: sessions_on_quart(equipped=False),
        lambda: sessions_on_quart(equipped=True),
        sessions_on_flask,
        lambda: sessions_on_flask(SESSION_COOKIE_NAME="shop"),
        lambda: bridged(sessions_on_wsgi, SETTINGS),
    ],
    ids=["quart", "quart equipped", "flask", "flask's own name", "wsgi"],
)


@INSIDE
def test_after_a_logout_an_answer_is_not_the_next_visitors(made: Callable[[], ASGIApp]) -> None:
    with TestClient(made()) as client:
        client.get("/login")
        first = client.get("/feed")
        ids = [line[4:] for line in first.text.split("\n") if line.startswith("id: ")]
        assert "holdfast_capture" not in client.cookies
        # Its own session is answered from the log, the next visitor by the application.
        client.get("/feed", headers={"last-event-id": ids[0]})
        assert CALLS == ["/feed"]
        client.get("/logout")
        client.get("/feed", headers={"last-event-id": ids[0]})
        assert CALLS == ["/feed"] * 2
        client.get("/login")
        client.get("/feed", headers={"last-event-id": ids[0]})
        assert CALLS == ["/feed"] * 3


@INSIDE
def test_a_cookie_of_a_session_that_has_ended_opens_no_answer(made: Callable[[], ASGIApp]) -> None:
    with TestClient(made()) as client:
        cookie = client.get("/login").headers["set-cookie"].partition(";")[0]
        first = client.get("/feed")
        ids = [line[4:] for line in first.text.split("\n") if line.startswith("id: ")]
        client.get("/logout")
        client.cookies.clear()
        client.get("/feed", headers={"last-event-id": ids[0], "cookie": cookie})
        assert CALLS == ["/feed"] * 2


async def all_said() -> None:
    """Wait until what was captured on this loop is over, and all of it is written."""
    await until(lambda: all(task.done() for task in call._running))
    await close_runs(default_store(runtime(SETTINGS)))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: sessions_on_quart(equipped=False), ["unknown"]),
        (lambda: bridged(sessions_on_wsgi, SETTINGS), ["unknown"]),
        # Nobody looks at it there.
        (sessions_on_flask, []),
    ],
    ids=["quart", "wsgi", "flask"],
)
def test_a_session_that_has_ended_is_told_by_the_application_alone(
    made: Callable[[], ASGIApp], told: list[str]
) -> None:
    heard: list[str] = []
    with TestClient(made()) as client:
        cookie = client.get("/login").headers["set-cookie"].partition(";")[0]
        client.get("/logout")
        stop = on_session_event(lambda event: heard.append(event.name))
        try:
            answer = client.get("/feed", headers={"cookie": cookie})
        finally:
            stop()
        assert client.portal is not None
        client.portal.call(all_said)
    assert answer.headers["holdfast-run"]
    assert heard == told


def as_served(app: ASGIApp) -> ASGIApp:
    """*app* with what servers tell beside what a test's own client says."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        told = {"http_version": "1.1", "scheme": "http", "server": ("site.test", 80)}
        await app({**scope, **told, "asgi": {"version": "3.0"}}, receive, send)

    return serve


@INSIDE
@pytest.mark.anyio
async def test_a_logout_ends_the_captured_streams_of_its_session_that_are_open(
    made: Callable[[], ASGIApp],
) -> None:
    OVER.clear()
    app = as_served(made())
    ada, bob = Browser(app), Browser(app)
    try:
        for browser in (ada, bob):
            async with browser.get("/login") as login:
                await login.ended()
        async with ada.get("/feed/open") as first, bob.get("/feed/open") as other:
            await until(lambda: events_of(first.text) and events_of(other.text))
            async with ada.get("/logout") as logout:
                await logout.ended()
            await first.ended()
            assert not other.task.done(), "another session's goes on"
    finally:
        OVER.set()
        # The threads say their last word to this loop.
        await all_said()


def test_without_the_variable_nothing_is_around_an_application() -> None:
    app = starlette()
    around_asgi(app, Settings(secret_key=["a key of sixteen characters"]))
    assert app.user_middleware == []


@pytest.mark.parametrize("kind", ["flask", "wsgi"])
def test_on_a_wsgi_server_the_log_says_that_nothing_is_captured(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app: Any = flask.Flask("site") if kind == "flask" else on_wsgi
    with caplog.at_level(logging.WARNING, "holdfast"):
        (Holdfast if kind == "flask" else around_wsgi)(app, settings=SETTINGS)
    assert "HOLDFAST_STREAM_CAPTURE needs an ASGI server" in caplog.text


def test_an_application_that_equips_itself_is_captured_where_it_is_served_by_asgi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (
        "import flask, holdfast",
        "flask_app = flask.Flask('site')",
        "@flask_app.get('/feed')",
        "def feed():",
        "    return flask.Response(['data: 1\\n\\n'], content_type='text/event-stream')",
        "app = holdfast.Holdfast(flask_app)",
    )
    (tmp_path / "a_site_that_equips_itself.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HOLDFAST_STREAM_CAPTURE", "/feed")
    monkeypatch.setenv("HOLDFAST_APP", "a_site_that_equips_itself:app")
    try:
        with caplog.at_level(logging.WARNING, "holdfast"), TestClient(holdfast.asgi.app) as client:
            assert "holdfast-run" in client.get("/feed").headers
    finally:
        # It is made once for a process, and this is not its.
        vars(holdfast.asgi).pop("_made", None)
    assert "HOLDFAST_STREAM_CAPTURE needs an ASGI server" not in caplog.text
