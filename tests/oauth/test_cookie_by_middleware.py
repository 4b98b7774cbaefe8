"""Under a session middleware of ours, and in Flask, the binding cookie is sent without a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flask
import httpx
import pytest
import quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.oauth.door import KEY
from tests.sessions.browser import Browser
from werkzeug.test import Client
from werkzeug.wrappers import Request as WerkzeugRequest
from werkzeug.wrappers import Response as WerkzeugResponse

from holdfast import (
    OAuthStateStore,
    SessionMiddleware,
    Settings,
    SyncOAuthStateStore,
    WSGISessionMiddleware,
    aclose,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

pytestmark = pytest.mark.anyio

DATA = {"next": "/cart"}


@pytest.fixture
def settings(key_prefix: str) -> Settings:
    return Settings(secret_key=KEY, key_prefix=key_prefix)


def asgi_app(settings: Settings, answer: Callable[[OAuthStateStore, Request], Response]) -> Any:
    states = OAuthStateStore(settings)

    async def begin(request: Request) -> Response:
        request.state.login = await states.issue(request, DATA)
        return answer(states, request)

    async def end(request: Request) -> Response:
        return JSONResponse(await states.consume(request, request.query_params["state"]))

    return Starlette(
        routes=[Route("/begin", begin), Route("/end", end)],
        middleware=[Middleware(SessionMiddleware, settings=settings)],
    )


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_a_login_ends_in_the_browser_that_began_it(settings: Settings) -> None:
    app = asgi_app(settings, lambda _, request: JSONResponse(request.state.login))
    async with client_of(app) as browser, client_of(app) as other:
        begun = await browser.get("/begin")
        (cookie,) = begun.headers.get_list("set-cookie")
        assert cookie.startswith("holdfast_oauth-")
        assert "httponly" in cookie.lower()
        assert begun.headers["cache-control"] == "no-store"
        end = f"/end?state={begun.json()}"
        assert (await other.get(end)).json() is None
        answer = await browser.get(end)
        assert answer.json() == DATA
        assert "set-cookie" not in answer.headers
        assert (await browser.get(end)).json() is None


async def test_the_call_for_it_has_it_sent_once(settings: Settings) -> None:
    def answer(states: OAuthStateStore, request: Request) -> Response:
        response = Response(headers={"Cache-Control": "private"})
        states.set_cookie(request, response)
        return response

    async with client_of(asgi_app(settings, answer)) as browser:
        begun = await browser.get("/begin")
    assert len(begun.headers.get_list("set-cookie")) == 1
    assert begun.headers.get_list("cache-control") == ["private"]


async def test_the_cookie_of_a_new_session_is_sent_beside_it(settings: Settings) -> None:
    def answer(_: OAuthStateStore, request: Request) -> Response:
        request.session["cart"] = []
        return Response()

    async with client_of(asgi_app(settings, answer)) as browser:
        begun = await browser.get("/begin")
    names = [each.partition("=")[0] for each in begun.headers.get_list("set-cookie")]
    assert [name.partition("-")[0] for name in names] == ["holdfast_oauth", "session"]
    assert begun.headers.get_list("cache-control") == ["no-store"]


async def test_a_login_that_could_not_begin_leaves_no_cookie(
    free_port: int, key_prefix: str
) -> None:
    url = f"redis://127.0.0.1:{free_port}"
    settings = Settings(secret_key=KEY, redis_url=url, key_prefix=key_prefix)
    async with client_of(asgi_app(settings, lambda _, __: Response())) as browser:
        begun = await browser.get("/begin")
    assert begun.status_code == 503
    assert "set-cookie" not in begun.headers
    await aclose()


def test_on_wsgi_too(settings: Settings) -> None:
    states = SyncOAuthStateStore(settings)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = WerkzeugRequest(environ)
        if request.path == "/begin":
            found: Any = states.issue(request, DATA)
        else:
            found = states.consume(request, request.args["state"])
        return WerkzeugResponse(repr(found))(environ, start_response)

    site = WSGISessionMiddleware(app, settings=settings)
    browser = Client(site)
    begun = browser.get("/begin")
    (cookie,) = begun.headers.getlist("Set-Cookie")
    assert cookie.startswith("holdfast_oauth-")
    end = "/end?state=" + begun.text.strip("'")
    assert Client(site).get(end).text == "None"
    assert browser.get(end).text == repr(DATA)


@pytest.mark.parametrize("called", [False, True], ids=["by-itself", "called"])
def test_in_flask_too(settings: Settings, called: bool) -> None:
    states, app = SyncOAuthStateStore(settings), flask.Flask(__name__)

    @app.get("/begin")
    def begin() -> flask.Response:
        response = flask.Response(states.issue(flask.request, DATA))
        if called:
            states.set_cookie(flask.request, response)
        return response

    @app.get("/end")
    def end() -> flask.Response:
        return flask.jsonify(states.consume(flask.request, flask.request.args["state"]))

    browser = app.test_client()
    begun = browser.get("/begin")
    (cookie,) = begun.headers.getlist("Set-Cookie")
    assert cookie.startswith("holdfast_oauth-")
    assert begun.headers.getlist("Cache-Control") == ["no-store"]
    assert app.test_client().get("/end?state=" + begun.text).json is None
    assert browser.get("/end?state=" + begun.text).json == DATA


@pytest.mark.parametrize("called", [False, True], ids=["by-itself", "called"])
def test_in_flask_under_the_middleware_too(settings: Settings, called: bool) -> None:
    states, app = SyncOAuthStateStore(settings), flask.Flask(__name__)

    @app.get("/begin")
    def begin() -> flask.Response:
        response = flask.Response(states.issue(flask.request, DATA))
        if called:
            states.set_cookie(flask.request, response)
        return response

    # The middleware asks for the cookie when Flask knows of no request any more.
    app.wsgi_app = WSGISessionMiddleware(app.wsgi_app, settings=settings)  # type: ignore[method-assign]
    begun = app.test_client().get("/begin")
    assert begun.status_code == 200
    (cookie,) = begun.headers.getlist("Set-Cookie")
    assert cookie.startswith("holdfast_oauth-")
    assert begun.headers.getlist("Cache-Control") == ["no-store"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_in_quart_under_the_middleware_too(settings: Settings) -> None:
    states, app = OAuthStateStore(settings), quart.Quart(__name__)

    @app.get("/begin")
    async def begin() -> str:
        return await states.issue(quart.request, DATA)

    site: Any = app
    async with client_of(SessionMiddleware(site, settings=settings)) as browser:
        begun = await browser.get("/begin")
    assert begun.status_code == 200
    (cookie,) = begun.headers.get_list("set-cookie")
    assert cookie.startswith("holdfast_oauth-")


async def test_the_answer_to_a_handshake_brings_it_too(settings: Settings) -> None:
    states = OAuthStateStore(settings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await states.issue(scope, DATA)
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})

    opened = await Browser(SessionMiddleware(app, settings=settings)).socket()
    assert opened.set_cookie is not None
    assert opened.set_cookie.startswith("holdfast_oauth-")
    assert opened.one("x-own") == "1"


def test_an_environ_that_is_not_of_the_request_flask_serves_is_left_alone(
    settings: Settings,
) -> None:
    states = SyncOAuthStateStore(settings)
    other = {"wsgi.version": (1, 0), "REQUEST_METHOD": "GET"}
    app = flask.Flask(__name__)
    with app.test_request_context():
        states.issue(other, DATA)
        assert "Set-Cookie" not in app.process_response(flask.Response()).headers
    assert len(states.cookie_headers(other)) == 2
