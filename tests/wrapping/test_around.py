"""What is put around an application, and which ones are left alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import flask
import pytest
import quart
from flask.sessions import SecureCookieSessionInterface
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware as TheirMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.test import Client

from holdfast import Holdfast, SessionMiddleware, WSGISessionMiddleware
from holdfast.errors import ConfigurationError
from holdfast.flask import FlaskSessionInterface
from holdfast.quart import QuartSessionInterface
from holdfast.settings import Settings
from holdfast.wrapping.around import around_asgi, around_wsgi, bridged
from holdfast.wrapping.beside_asgi import Beside
from holdfast.wrapping.beside_wsgi import BesideWSGI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from starlette.requests import Request

SETTINGS = Settings(secret_key=["a key of sixteen characters"], stream_access="open")


async def home(request: Request) -> PlainTextResponse:
    request.session["n"] = request.session.get("n", 0) + 1
    return PlainTextResponse(str(request.session["n"]))


def site(**arguments: Any) -> Starlette:
    return Starlette(routes=[Route("/", home), Route("/streams-of-tea", home)], **arguments)


def flask_site() -> flask.Flask:
    app = flask.Flask("site")

    @app.get("/")
    def page() -> str:
        flask.session["n"] = flask.session.get("n", 0) + 1
        return str(flask.session["n"])

    return app


def plain(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    session = environ["holdfast.session"]
    session["n"] = session.get("n", 0) + 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(session["n"]).encode()]


def inside(served: object) -> object:
    """What has only the streams beside it, and nothing around it."""
    assert isinstance(served, BesideWSGI)
    return served.app


def counted(client: TestClient) -> list[str]:
    return [client.get("/").text for _ in range(3)]


def test_an_asgi_application_has_sessions_and_streams() -> None:
    with TestClient(around_asgi(site(), SETTINGS)) as client:
        assert counted(client) == ["1", "2", "3"]
        assert client.get("/streams/livez").status_code == 200
        assert client.get("/streams/runs/none/events").json()["code"] == "RUN_NOT_FOUND"
        # Whole segments: the application's own path is its own.
        assert client.get("/streams-of-tea").text == "4"


def test_behind_a_prefix_that_the_server_tells() -> None:
    with TestClient(around_asgi(site(), SETTINGS), root_path="/shop") as client:
        assert client.get("/shop/streams/livez").status_code == 200
        assert client.get("/shop/").text == "1"


def test_an_application_with_sessions_of_its_own_keeps_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = site()
    app.add_middleware(TheirMiddleware, secret_key="theirs")
    caplog.set_level(logging.WARNING, "holdfast")
    with TestClient(around_asgi(app, SETTINGS)) as client:
        assert counted(client) == ["1", "2", "3"]
        assert client.cookies["session"].count(".") == 2
        assert client.get("/streams/livez").status_code == 200
    assert "starlette.middleware.sessions.SessionMiddleware" in caplog.text


def test_one_that_uses_ours_already_is_left_with_its_own_arguments() -> None:
    app = site()
    app.add_middleware(SessionMiddleware, session_cookie="mine", settings=SETTINGS)
    with TestClient(around_asgi(app, SETTINGS)) as client:
        assert counted(client) == ["1", "2", "3"]
        assert set(client.cookies) == {"mine"}


@pytest.mark.parametrize("make", [around_wsgi, bridged])
def test_a_flask_application_gets_our_interface(make: Any) -> None:
    app = flask_site()
    make(app, SETTINGS)
    assert isinstance(app.session_interface, FlaskSessionInterface)


def test_a_flask_application_with_an_interface_of_its_own_keeps_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Theirs(SecureCookieSessionInterface): ...

    app = flask_site()
    app.session_interface = theirs = Theirs()
    assert inside(around_wsgi(app, SETTINGS)) is app
    assert app.session_interface is theirs
    assert "Theirs" in caplog.text
    caplog.clear()
    app.session_interface = FlaskSessionInterface(SETTINGS)
    assert inside(around_wsgi(app, SETTINGS)) is app
    assert not caplog.text


async def test_a_quart_application_gets_our_interface() -> None:
    app: Any = quart.Quart("site")
    served = around_asgi(app, SETTINGS)
    assert isinstance(served, Beside)
    assert isinstance(app.session_interface, QuartSessionInterface)


def test_django_is_told_its_setting(caplog: pytest.LogCaptureFixture) -> None:
    class WSGIHandler:
        def __call__(self, environ: Any, start_response: Any) -> Any: ...

    WSGIHandler.__module__ = "django.core.handlers.wsgi"
    handler = WSGIHandler()
    assert inside(around_wsgi(handler, SETTINGS)) is handler
    assert 'SESSION_ENGINE = "holdfast.django"' in caplog.text


def test_a_wsgi_application_has_sessions() -> None:
    app = around_wsgi(plain, SETTINGS)
    assert isinstance(app, WSGISessionMiddleware)
    client = Client(app)
    assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]


class Handler:
    """As Django's."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert "holdfast.session" not in environ
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]


Handler.__module__ = "django.core.handlers.wsgi"


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


@pytest.mark.parametrize("kind", ["plain", "flask", "django"])
def test_a_wsgi_application_has_streams_beside_it(kind: str) -> None:
    app: Any = {"plain": lambda: page, "flask": flask_site, "django": Handler}[kind]()
    if kind == "flask":
        app.add_url_rule("/<path:path>", "any", lambda path: f"/{path}")
    client = Client(around_wsgi(app, SETTINGS))
    assert client.get("/streams/livez").json == {"status": "ok"}
    assert client.get("/streams/runs/none/events").get_json()["code"] == "RUN_NOT_FOUND"
    assert client.get("/streams").get_json()["code"] == "NOT_FOUND"
    # Whole segments: the application's own path is its own.
    assert client.get("/streams-of-tea").text == "/streams-of-tea"


def test_streams_behind_a_prefix_keep_it() -> None:
    def streams(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]

    client = Client(BesideWSGI(page, streams, "/s/"))
    environ = {"SCRIPT_NAME": "/shop"}
    assert client.get("/s/livez", environ_overrides=environ).text == "/shop/s|/livez"
    assert client.get("/s", environ_overrides=environ).text == "/shop/s|"
    assert client.get("/", environ_overrides=environ).text == "/"


@pytest.mark.parametrize("app", [plain, flask_site()], ids=["plain", "flask"])
def test_a_wsgi_application_on_an_asgi_server_has_sessions_and_streams(app: Any) -> None:
    with TestClient(bridged(app, SETTINGS)) as client:
        assert counted(client) == ["1", "2", "3"]
        assert client.get("/streams/livez").status_code == 200


@pytest.mark.parametrize(
    ("around", "make"),
    [
        *((around, lambda: plain) for around in (bridged, around_wsgi, Holdfast)),
        *((around, flask_site) for around in (bridged, around_wsgi, Holdfast)),
        (Holdfast, lambda: quart.Quart("site")),
    ],
    ids=[
        *("plain bridged", "plain wrapped", "plain given to Holdfast"),
        *("flask bridged", "flask wrapped", "flask equipped", "quart equipped"),
    ],
)
def test_several_workers_without_redis_are_refused(
    around: Any, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the application is made, and not by its first request."""
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    with pytest.raises(ConfigurationError, match="HOLDFAST_REDIS_URL"):
        around(make(), settings=SETTINGS)
