"""``Holdfast(app)``: one line, for each framework's own application."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import flask
import httpx
import pytest
import quart
from fastapi import FastAPI
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as TheirMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.test import Client

from holdfast import Holdfast, SyncRunPublisher, WSGISessionMiddleware
from holdfast.errors import ConfigurationError
from holdfast.settings import Settings
from holdfast.wrapping.around import around_asgi, around_wsgi
from holdfast.wrapping.beside_wsgi import StreamsBesideWSGI
from holdfast.wrapping.protocol import protocol_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from starlette.requests import Request

    from holdfast.testing import RedisServer

SETTINGS = Settings(secret_key=["a key of sixteen characters"], stream_access="open")

pytestmark = pytest.mark.anyio


def count_in(session: Any) -> str:
    session["n"] = session.get("n", 0) + 1
    return str(session["n"])


def flask_app() -> Flask:
    app = Flask(__name__)
    app.add_url_rule("/", "page", lambda: count_in(flask.globals.request_ctx.session))
    return app


def test_a_flask_app_needs_nothing_else() -> None:
    app = flask_app()
    extension = Holdfast(app)
    client = app.test_client()
    assert [client.get("/").text for _ in range(2)] == ["1", "2"]
    assert app.extensions["holdfast"] is extension


def test_one_extension_serves_every_app_of_a_factory() -> None:
    extension = Holdfast(settings=Settings(session_cookie="theirs"))
    for _ in range(2):
        app = flask_app()
        extension.init_app(app)
        assert app.test_client().get("/").headers["Set-Cookie"].startswith("theirs=")


async def test_a_quart_app_needs_nothing_else() -> None:
    app = Quart(__name__)
    Holdfast(app)

    @app.get("/")
    async def page() -> str:
        return count_in(quart.globals.request_ctx.session)

    client = app.test_client()
    answers = [await client.get("/") for _ in range(2)]
    assert [await answer.get_data() for answer in answers] == [b"1", b"2"]


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse(count_in(request.session))


def starlette_site(make: Any = Starlette) -> Any:
    app = make()
    app.router.routes.append(Route("/{path:path}", home))
    return app


def plain(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [count_in(environ["holdfast.session"]).encode()]


@pytest.mark.parametrize("make", [Starlette, FastAPI])
def test_an_app_of_starlette_is_equipped_in_place(make: Any) -> None:
    app = starlette_site(make)
    extension = Holdfast(app, settings=SETTINGS)
    Holdfast(app, settings=SETTINGS)
    served: Any
    for served in (app, extension):
        with TestClient(served) as client:
            assert [client.get("/").text for _ in range(2)] == ["1", "2"]
            # Before the route of the application that takes everything.
            assert client.get("/streams/livez").status_code == 200
            assert client.get("/").headers.get_list("vary") == ["Cookie"]


def test_an_app_of_starlette_with_sessions_of_its_own_keeps_them() -> None:
    app = starlette_site()
    app.add_middleware(TheirMiddleware, secret_key="theirs")
    Holdfast(app, settings=SETTINGS)
    with TestClient(app) as client:
        assert [client.get("/").text for _ in range(2)] == ["1", "2"]
        assert client.cookies["session"].count(".") == 2


async def test_a_quart_app_has_streams_too() -> None:
    app = Quart(__name__)
    extension: Any = Holdfast(app, settings=SETTINGS)
    transport = httpx.ASGITransport(extension)
    async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
        assert (await client.get("/streams/livez")).status_code == 200


def test_any_other_app_is_wrapped() -> None:
    inside = starlette_site()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await inside(scope, receive, send)

    extension: Any = Holdfast(asgi, settings=SETTINGS)
    with TestClient(extension) as client:
        assert [client.get("/").text for _ in range(2)] == ["1", "2"]
        assert client.get("/streams/livez").status_code == 200
    around: Any = Holdfast(plain, settings=SETTINGS)
    visitor = Client(around)
    assert [visitor.get("/").text for _ in range(2)] == ["1", "2"]


def test_a_flask_app_is_served_by_the_extension_as_well() -> None:
    extension: Any = Holdfast(flask_app(), settings=SETTINGS)
    visitor = Client(extension)
    assert [visitor.get("/").text for _ in range(2)] == ["1", "2"]


def test_the_protocol_of_what_cannot_be_seen_is_said() -> None:
    def hidden(*each: Any) -> Iterable[bytes]:
        return plain(*each)

    with pytest.raises(ConfigurationError, match='protocol="wsgi"'):
        Holdfast(hidden, settings=SETTINGS)
    served: Any = Holdfast(hidden, settings=SETTINGS, protocol="wsgi")
    assert Client(served).get("/").text == "1"


def test_servers_see_the_protocol() -> None:
    assert protocol_of(Holdfast(starlette_site(), settings=SETTINGS)) == "asgi"
    assert protocol_of(Holdfast(flask_app(), settings=SETTINGS)) == "wsgi"
    assert not callable(Holdfast(settings=SETTINGS))


def test_a_wrong_variable_is_told_where_the_app_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SESSION_MAX_BYTES", "many")
    with pytest.raises(ConfigurationError, match="HOLDFAST_SESSION_MAX_BYTES"):
        Holdfast(flask_app())


def test_neither_framework_is_imported_for_the_others_sake() -> None:
    code = (
        "import sys, flask; from holdfast import Holdfast; Holdfast(flask.Flask('app'));"
        "print('quart' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


OWNED = Settings(secret_key=["a key of sixteen characters"], stream_access="session")


def test_the_streams_of_a_flask_app_know_its_sessions() -> None:
    app = flask_app()
    app.config.update(SECRET_KEY="flask's own", SESSION_COOKIE_NAME="biscuit")
    Holdfast(app, settings=OWNED)

    @app.get("/login")
    def login() -> str:
        flask.session["user_id"] = "ada"
        SyncRunPublisher("mine", owner="user:ada", settings=OWNED).emit("t")
        SyncRunPublisher("theirs", owner="user:bob", settings=OWNED).emit("t")
        return ""

    client = app.test_client()
    assert client.get("/streams/runs/mine/events").status_code == 401
    assert "biscuit=" in client.get("/login").headers["Set-Cookie"]
    assert client.get("/streams/runs/mine/events").get_json()["events"][0]["type"] == "t"
    assert client.get("/streams/runs/theirs/events").status_code == 403


def test_under_a_middleware_the_streams_of_a_flask_app_take_its_session() -> None:
    app = flask_app()
    Holdfast(app, settings=OWNED)
    app.wsgi_app = WSGISessionMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, session_cookie="outer", settings=OWNED
    )
    client = app.test_client()
    assert client.get("/").headers["Set-Cookie"].startswith("outer=")
    assert client.get("/streams/runs/none/events").status_code == 403


def test_the_streams_of_a_flask_app_with_an_interface_of_its_own_have_sessions_of_ours() -> None:
    app = flask_app()
    Holdfast(app, settings=OWNED)
    app.session_interface = SecureCookieSessionInterface()
    assert app.test_client().get("/streams/runs/none/events").status_code == 401


def test_a_flask_app_goes_on_where_its_streams_cannot_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = flask_app()
    app.config["SECRET_KEY"] = "flask's own"
    wrong = Settings(secret_key=["a key of sixteen characters"], stream_access="nowhere:at_all")
    Holdfast(app, settings=wrong)
    client = app.test_client()
    assert client.get("/").text == "1"
    for _ in range(2):
        assert client.get("/streams/livez").status_code == 503
    assert caplog.text.count("is answered 503") == 1


async def serves_without_streams(app: Any) -> None:
    app.secret_key = "quart's own"
    client = app.test_client()
    assert await (await client.get("/")).get_data() == b"1"
    for _ in range(2):
        assert (await client.get("/streams/livez")).status_code == 503


def test_a_quart_app_goes_on_where_its_streams_cannot_work(
    caplog: pytest.LogCaptureFixture, redis: RedisServer, key_prefix: str
) -> None:
    app = Quart(__name__)
    # Tokens are signed by a key of holdfast's, which is not set.
    Holdfast(app, settings=Settings(redis_url=redis.url, key_prefix=key_prefix))
    # Where a person sees it.
    assert "for an event stream is answered 503: HOLDFAST_SECRET_KEY" in caplog.text

    @app.get("/")
    async def page() -> str:
        return count_in(quart.globals.request_ctx.session)

    anyio.run(serves_without_streams, app)
    assert caplog.text.count("is answered 503") == 1


def test_a_flask_app_that_was_equipped_is_not_wrapped_again() -> None:
    app = flask_app()
    Holdfast(app, settings=SETTINGS)
    assert around_wsgi(app, SETTINGS) is app
    assert app.test_client().get("/streams/livez").status_code == 200


async def test_a_quart_app_that_was_equipped_is_not_wrapped_again() -> None:
    app: Any = Quart(__name__)
    Holdfast(app, settings=SETTINGS)
    served: Any = around_asgi(app, SETTINGS)
    assert served is app
    assert (await served.test_client().get("/streams/livez")).status_code == 200


@pytest.mark.parametrize("kind", [Flask, Quart], ids=["flask", "quart"])
def test_the_log_names_a_session_interface_that_is_replaced(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Theirs: ...

    Holdfast(kind(__name__), settings=SETTINGS)
    assert "session interface" not in caplog.text
    app = kind(__name__)
    app.session_interface = Theirs()
    Holdfast(app, settings=SETTINGS)
    assert "another session interface (Theirs)" in caplog.text


def test_the_log_says_what_serves_already_and_is_not_captured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(secret_key=["a key of sixteen characters"], stream_capture="/feed")
    app = Starlette(middleware=[Middleware(TheirMiddleware, secret_key="theirs")])
    with TestClient(app):
        Holdfast(app, settings=settings)
    assert "nothing of it is captured" in caplog.text


def test_two_first_readers_of_a_flask_app_are_served_by_one_loop() -> None:
    streams = StreamsBesideWSGI(flask_app(), SETTINGS)
    assert streams._make() is streams._make()
