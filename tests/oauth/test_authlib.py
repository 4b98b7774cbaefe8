"""The adapters for Authlib: what they do beside what Authlib's own tests ask for."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from authlib.integrations.flask_client import FlaskOAuth2App  # type: ignore[import-untyped]
from authlib.integrations.starlette_client import (  # type: ignore[import-untyped]
    StarletteOAuth2App,
)
from flask import Flask
from flask import jsonify as flask_jsonify
from flask import session as flask_session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.oauth.door import KEY
from tests.oauth.provider import consent, example, query, registered

from holdfast import SessionMiddleware, Settings
from holdfast.oauth.authlib import marks
from holdfast.oauth.authlib.flask import OAuth as FlaskOAuth
from holdfast.oauth.authlib.starlette import OAuth, OAuthError
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.types import ASGIApp
    from werkzeug.test import Client

pytestmark = pytest.mark.anyio

BROWSER = "http://testserver"


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    module = example()
    with module.running(module.create_provider()) as url:
        yield url


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest, key_prefix: str) -> Settings:
    if request.param == "memory":
        return Settings(secret_key=KEY, key_prefix=key_prefix)
    server = request.getfixturevalue("redis")
    return Settings(redis_url=server.url, secret_key=KEY, key_prefix=key_prefix)


def starlette_app(issuer: str, settings: Settings, *middleware: Middleware, **options: Any) -> Any:
    oauth = OAuth(settings=settings, **options)
    client = registered(oauth, issuer)

    async def log_in(request: Request) -> Response:
        answer: Response = await client.authorize_redirect(request, f"{BROWSER}/callback")
        return answer

    async def by_script(request: Request) -> Response:
        made = await client.create_authorization_url(f"{BROWSER}/callback")
        await client.save_authorize_data(request, redirect_uri=f"{BROWSER}/callback", **made)
        response = JSONResponse({"url": made["url"]})
        if "cookie" in request.query_params:
            oauth.states.set_cookie(request, response)
        return response

    async def callback(request: Request) -> Response:
        try:
            token = await client.authorize_access_token(request)
        except OAuthError as error:
            return JSONResponse({"error": error.error}, 400)
        return JSONResponse({"name": token["userinfo"]["name"]})

    async def session(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    return Starlette(
        routes=[
            Route("/login", log_in),
            Route("/by-script", by_script),
            Route("/callback", callback, methods=["GET", "POST"]),
            Route("/session", session),
        ],
        middleware=list(middleware),
    )


def browse(app: ASGIApp) -> TestClient:
    return TestClient(app, base_url=BROWSER, follow_redirects=False)


def ours(settings: Settings) -> Middleware:
    return Middleware(SessionMiddleware, settings=settings)


SIGNED = Middleware(SignedCookieMiddleware, secret_key="x" * 32)


@pytest.mark.parametrize("session", ["none", "holdfast", "signed cookie"])
def test_two_tabs_log_in_once_each_with_and_without_sessions(
    issuer: str, settings: Settings, session: str
) -> None:
    middleware = {"none": [], "holdfast": [ours(settings)], "signed cookie": [SIGNED]}[session]
    with browse(starlette_app(issuer, settings, *middleware)) as browser:
        tabs = [browser.get("/login") for _ in range(2)]
        assert all(tab.headers["cache-control"] == "no-store" for tab in tabs)
        for tab in tabs:
            callback = consent(tab.headers["location"])
            assert browser.get(callback).json() == {"name": "Ada"}
            assert browser.get(callback).json() == {"error": "mismatching_state"}


def test_another_browser_cannot_finish_a_login_nor_spoil_it(
    issuer: str, settings: Settings
) -> None:
    app = starlette_app(issuer, settings, ours(settings))
    with browse(app) as browser, browse(app) as other:
        callback = consent(browser.get("/login").headers["location"])
        other.get("/login")
        assert other.get(callback).json() == {"error": "mismatching_state"}
        assert browser.get(callback).json() == {"name": "Ada"}


def test_a_login_that_took_too_long_is_refused(issuer: str, settings: Settings) -> None:
    with browse(starlette_app(issuer, settings, SIGNED, ttl=0.2)) as browser:
        callback = consent(browser.get("/login").headers["location"])
        time.sleep(0.25)  # the lifetime itself is what passes
        assert browser.get(callback).json() == {"error": "mismatching_state"}


def test_a_login_makes_no_session_where_there_is_none(issuer: str, settings: Settings) -> None:
    with browse(starlette_app(issuer, settings, ours(settings))) as browser:
        browser.get("/login")
        assert [name.startswith("holdfast_oauth-") for name in browser.cookies] == [True]
        assert browser.get("/session").json() == {}


def test_a_session_alone_proves_the_browser_too(issuer: str, settings: Settings) -> None:
    with browse(starlette_app(issuer, settings, SIGNED)) as browser:
        callback = consent(browser.get("/login").headers["location"])
        for name in [name for name in browser.cookies if name.startswith("holdfast_oauth")]:
            browser.cookies.delete(name)
        assert len(browser.get("/session").json()) == 1
        assert browser.get(callback).json() == {"name": "Ada"}
        assert browser.get("/session").json() == {}


@pytest.mark.parametrize("way", ["/by-script", "/by-script?cookie"])
def test_a_page_that_is_redirected_by_its_script_logs_in(
    issuer: str, settings: Settings, way: str
) -> None:
    with browse(starlette_app(issuer, settings, ours(settings))) as browser:
        there = browser.get(way).json()["url"]
        assert browser.get(consent(there)).json() == {"name": "Ada"}


def test_a_script_without_sessions_needs_the_cookie(issuer: str, settings: Settings) -> None:
    with browse(starlette_app(issuer, settings)) as browser:
        there = browser.get("/by-script?cookie").json()["url"]
        assert browser.get(consent(there)).json() == {"name": "Ada"}
        browser.cookies.clear()
        there = browser.get("/by-script").json()["url"]
        assert browser.get(consent(there)).json() == {"error": "mismatching_state"}


def test_abandoned_logins_leave_the_session_small(issuer: str) -> None:
    settings = Settings(secret_key=KEY)
    with browse(starlette_app(issuer, settings, SIGNED)) as browser:
        first = browser.get("/login").headers["location"]
        for _ in range(48):
            browser.get("/login")
        last = browser.get("/login").headers["location"]
        assert len(browser.get("/session").json()) == marks.MOST_MARKS
        assert len(browser.cookies) == 2
        for there in (first, last):
            assert browser.get(consent(there)).json() == {"name": "Ada"}


def test_form_post_reads_the_answer_from_the_body(issuer: str, settings: Settings) -> None:
    app = starlette_app(issuer, settings, form_post=True)
    with TestClient(app, base_url="https://testserver", follow_redirects=False) as browser:
        callback = consent(browser.get("/login").headers["location"])
        assert browser.post("/callback", data=query(callback)).json() == {"name": "Ada"}


def test_a_state_of_another_provider_is_refused(issuer: str, settings: Settings) -> None:
    oauth = OAuth(settings=settings)
    for name in ("honest", "evil"):
        oauth.register(
            name, client_id="x", access_token_url=f"{issuer}/token", authorize_url=f"{issuer}/a"
        )

    async def log_in(request: Request) -> Response:
        answer: Response = await oauth.honest.authorize_redirect(request, f"{BROWSER}/callback")
        return answer

    async def callback(request: Request) -> Response:
        with pytest.raises(OAuthError, match="mismatching_state"):
            await oauth.evil.authorize_access_token(request)
        return Response()

    with browse(Starlette(routes=[Route("/login", log_in), Route("/callback", callback)])) as user:
        state = query(user.get("/login").headers["location"])["state"]
        assert user.get(f"/callback?state={state}&code=x").status_code == 200


def test_a_foreign_app_class_is_bound_by_the_session(issuer: str, settings: Settings) -> None:
    class Theirs(StarletteOAuth2App):  # type: ignore[misc]
        pass

    oauth = OAuth(settings=settings)
    client = oauth.register(
        "provider",
        client_cls=Theirs,
        client_id="shop",
        server_metadata_url=f"{issuer}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid", "code_challenge_method": "S256"},
    )

    async def log_in(request: Request) -> Response:
        answer: Response = await client.authorize_redirect(request, f"{BROWSER}/callback")
        return answer

    async def callback(request: Request) -> Response:
        token = await client.authorize_access_token(request)
        return JSONResponse({"name": token["userinfo"]["name"]})

    routes = [Route("/login", log_in), Route("/callback", callback)]
    with browse(Starlette(routes=routes, middleware=[ours(settings)])) as browser:
        there = browser.get("/login").headers["location"]
        assert browser.get(consent(there)).json() == {"name": "Ada"}


def test_a_logout_at_the_provider_comes_back_once(issuer: str, settings: Settings) -> None:
    oauth = OAuth(settings=settings)
    client = oauth.register("provider", client_id="x", end_session_endpoint=f"{issuer}/end")

    async def leave(request: Request) -> Response:
        answer: Response = await client.logout_redirect(
            request, post_logout_redirect_uri=f"{BROWSER}/left"
        )
        return answer

    async def left(request: Request) -> Response:
        try:
            return JSONResponse(await client.validate_logout_response(request))
        except OAuthError:
            return Response(status_code=400)

    with browse(Starlette(routes=[Route("/leave", leave), Route("/left", left)])) as browser:
        state = query(browser.get("/leave").headers["location"])["state"]
        told = browser.get(f"/left?state={state}").json()
        assert told == {"post_logout_redirect_uri": f"{BROWSER}/left"}
        assert browser.get(f"/left?state={state}").status_code == 400


def test_no_state_code_or_verifier_is_logged(
    issuer: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with browse(starlette_app(issuer, settings, SIGNED)) as browser:
        callback = consent(browser.get("/login").headers["location"])
        assert browser.get(callback).status_code == 200
    # HTTP clients log the addresses they ask for, which is how a state travels.
    told = "\n".join(
        record.getMessage()
        for record in caplog.records
        if not record.name.startswith(("http", "urllib3"))
    )
    assert "Using code_verifier: (not shown)" in told
    for secret in query(callback).values():
        assert secret not in told


async def test_in_an_outage_a_login_is_a_503_and_keeps_its_browser(issuer: str) -> None:
    with redis_server() as redis:
        settings = Settings(redis_url=redis.url, secret_key=KEY)
        app = starlette_app(issuer, settings)

        def conversation() -> None:
            with browse(app) as browser:
                callback = consent(browser.get("/login").headers["location"])
                before = dict(browser.cookies)
                redis.kill()
                # The first to notice may still be waiting for its deadline.
                for path in ("/login", callback):
                    answer = browser.get(path)
                    assert answer.status_code == 503
                    assert answer.headers["retry-after"] == "2"
                    assert "set-cookie" not in answer.headers
                assert dict(browser.cookies) == before

        await anyio.to_thread.run_sync(conversation)


def flask_app(issuer: str, settings: Settings, **options: Any) -> Flask:
    app = Flask(__name__)
    oauth = FlaskOAuth(app, settings=settings, **options)
    client = registered(oauth, issuer)

    @app.get("/login")
    def log_in() -> Any:
        return client.authorize_redirect("http://localhost/callback")

    @app.route("/callback", methods=["GET", "POST"])
    def callback() -> Any:
        try:
            token = client.authorize_access_token()
        except OAuthError as error:
            return flask_jsonify(error=error.error), 400
        return flask_jsonify(name=token["userinfo"]["name"])

    @app.get("/session")
    def session() -> Any:
        return flask_jsonify(dict(flask_session))

    return app


def flask_cookies(browser: Client) -> list[str]:
    return sorted((browser._cookies and [key[2] for key in browser._cookies]) or [])


@pytest.mark.parametrize("secret", [None, "x" * 32], ids=["no session", "session"])
def test_flask_two_tabs_log_in_once_each_with_and_without_a_session(
    issuer: str, settings: Settings, secret: str | None
) -> None:
    app = flask_app(issuer, settings)
    app.secret_key = secret
    browser = app.test_client()
    tabs = [browser.get("/login") for _ in range(2)]
    assert all(tab.headers["Cache-Control"] == "no-store" for tab in tabs)
    for tab in tabs:
        callback = consent(tab.headers["Location"])
        assert browser.get(callback).json == {"name": "Ada"}
        assert browser.get(callback).json == {"error": "mismatching_state"}


def test_flask_another_browser_cannot_finish_a_login_nor_spoil_it(
    issuer: str, settings: Settings
) -> None:
    app = flask_app(issuer, settings)
    browser, other = app.test_client(), app.test_client()
    callback = consent(browser.get("/login").headers["Location"])
    other.get("/login")
    assert other.get(callback).json == {"error": "mismatching_state"}
    assert browser.get(callback).json == {"name": "Ada"}


def test_flask_many_callbacks_at_once_log_in_once(issuer: str, settings: Settings) -> None:
    app = flask_app(issuer, settings)
    browser = app.test_client()
    begun = browser.get("/login")
    callback = consent(begun.headers["Location"])
    cookie = begun.headers["Set-Cookie"].partition(";")[0]
    answers: list[int] = []

    def finish() -> None:
        with app.test_client(use_cookies=False) as client:
            answers.append(client.get(callback, headers={"Cookie": cookie}).status_code)

    threads = [threading.Thread(target=finish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, *[400] * 7]


def test_flask_abandoned_logins_leave_the_session_small(issuer: str) -> None:
    app = flask_app(issuer, Settings(secret_key=KEY))
    app.secret_key = "x" * 32
    browser = app.test_client()
    for _ in range(30):
        browser.get("/login")
    assert len(browser.get("/session").json or {}) == marks.MOST_MARKS
    assert len(flask_cookies(browser)) == 2


def test_flask_a_session_alone_proves_the_browser_too(issuer: str, settings: Settings) -> None:
    app = flask_app(issuer, settings)
    app.secret_key = "x" * 32
    browser = app.test_client()
    callback = consent(browser.get("/login").headers["Location"])
    for name in flask_cookies(browser):
        if name.startswith("holdfast_oauth"):
            browser.delete_cookie(name)
    assert flask_cookies(browser) == ["session"]
    assert browser.get(callback).json == {"name": "Ada"}


def test_flask_form_post_reads_the_answer_from_the_body(issuer: str, settings: Settings) -> None:
    browser = flask_app(issuer, settings, form_post=True).test_client()
    begun = browser.get("/login", base_url="https://localhost")
    assert "secure" in begun.headers["Set-Cookie"].lower()
    body = query(consent(begun.headers["Location"]))
    answer = browser.post("/callback", data=body, base_url="https://localhost")
    assert answer.json == {"name": "Ada"}


def test_flask_a_foreign_app_class_works_too(issuer: str, settings: Settings) -> None:
    class Theirs(FlaskOAuth2App):  # type: ignore[misc]
        pass

    app = Flask(__name__)
    app.secret_key = "x" * 32
    client = FlaskOAuth(app, settings=settings).register(
        "provider",
        client_cls=Theirs,
        client_id="shop",
        server_metadata_url=f"{issuer}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid", "code_challenge_method": "S256"},
    )
    app.add_url_rule("/login", "login", lambda: client.authorize_redirect("http://localhost/back"))
    app.add_url_rule("/back", "back", lambda: client.authorize_access_token()["userinfo"]["name"])
    browser = app.test_client()
    assert browser.get(consent(browser.get("/login").headers["Location"])).text == "Ada"


def test_flask_a_logout_at_the_provider_comes_back_once(issuer: str, settings: Settings) -> None:
    app = Flask(__name__)
    client = FlaskOAuth(app, settings=settings).register(
        "provider", client_id="x", end_session_endpoint=f"{issuer}/end"
    )

    @app.get("/leave")
    def leave() -> Any:
        return client.logout_redirect(post_logout_redirect_uri="http://localhost/left")

    @app.get("/left")
    def left() -> Any:
        try:
            return client.validate_logout_response()
        except OAuthError:
            return "again", 400

    browser = app.test_client()
    state = query(browser.get("/leave").headers["Location"])["state"]
    assert browser.get(f"/left?state={state}").json == {
        "post_logout_redirect_uri": "http://localhost/left"
    }
    assert browser.get(f"/left?state={state}").status_code == 400


def test_flask_in_an_outage_a_login_is_a_503(issuer: str) -> None:
    with redis_server() as redis:
        settings = Settings(redis_url=redis.url, secret_key=KEY)
        browser = flask_app(issuer, settings).test_client()
        callback = consent(browser.get("/login").headers["Location"])
        redis.kill()
        for path in ("/login", callback):
            answer = browser.get(path)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "2"
            assert "Set-Cookie" not in answer.headers


def test_flask_a_login_makes_no_session_where_there_is_none(
    issuer: str, settings: Settings
) -> None:
    class Fresh(SecureCookieSession):
        is_new = True

    class Interface(SecureCookieSessionInterface):
        session_class = Fresh

    app = flask_app(issuer, settings)
    app.secret_key, app.session_interface = "x" * 32, Interface()
    browser = app.test_client()
    callback = consent(browser.get("/login").headers["Location"])
    assert len(flask_cookies(browser)) == 1
    assert browser.get(callback).json == {"name": "Ada"}


class Unborn(dict[str, Any]):
    is_new = True


def test_marks_are_pruned_and_read_with_care() -> None:
    session: dict[str, Any] = {"_state_p_old": {"exp": 1.0}, "_state_p_odd": 7, "user": 1}
    marks.mark(session, "p", "new", "proof", 100.0, 10.0)
    assert set(session) == {"user", "_state_p_new"}
    assert marks.marked(session, "p", "new") == "proof"
    session["_state_p_odd"] = {"browser": 7, "exp": 1000.0}
    assert marks.marked(session, "p", "odd") is None
    assert marks.marked(session, "p", "none") is None
    marks.unmark(session, "p", "odd", 200.0)
    assert session == {"user": 1}
    assert marks.is_unborn(Unborn())
    assert not marks.is_unborn(Unborn(a=1))
    assert not marks.is_unborn({})


@pytest.mark.parametrize("kind", [OAuth, FlaskOAuth])
def test_a_lifetime_that_cannot_be_is_told_at_once(kind: Any) -> None:
    with pytest.raises(ValueError, match="ttl"):
        kind(settings=Settings(secret_key=KEY), ttl=0)


@pytest.mark.parametrize("kind", [OAuth, FlaskOAuth])
def test_a_store_can_be_given(kind: Any) -> None:
    states = kind(settings=Settings(secret_key=KEY)).states
    assert kind(states=states).states is states
