"""Streams beside an application that keeps its sessions itself, as it is configured itself."""

from __future__ import annotations

import os
import signal
import textwrap
from typing import TYPE_CHECKING, Any

import flask
import httpx
import pytest
from starlette.testclient import TestClient
from werkzeug.test import Client

from holdfast import Holdfast, SyncRunPublisher
from holdfast.settings import Settings
from holdfast.testing import FrozenClock
from holdfast.wrapping.around import around_wsgi, bridged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

# Each with a key and a cookie that no variable names; they log Ada in, and publish two runs.
SITES = {
    "of_flask": """
        from flask import Flask, session

        app = Flask(__name__)
        app.config.update(SECRET_KEY="the key of the site", SESSION_COOKIE_NAME="biscuit")

        @app.get("/login")
        def login():
            session["user_id"] = "ada"
            return publish()
    """,
    "of_quart": """
        from quart import Quart, session

        app = Quart(__name__)
        app.config.update(SECRET_KEY="the key of the site", SESSION_COOKIE_NAME="biscuit")

        @app.get("/login")
        async def login():
            session["user_id"] = "ada"
            return await asyncio.to_thread(publish)
    """,
    "of_quart_equipped": """
        from holdfast import Holdfast
        from quart import Quart, session

        app = Quart(__name__)
        Holdfast(app)
        app.config.update(SECRET_KEY="the key of the site", SESSION_COOKIE_NAME="biscuit")

        @app.get("/login")
        async def login():
            session["user_id"] = "ada"
            return await asyncio.to_thread(publish)
    """,
    "of_starlette": """
        from holdfast import SessionMiddleware
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        async def login(request):
            request.session["user_id"] = "ada"
            return PlainTextResponse(await asyncio.to_thread(publish))

        ours = Middleware(
            SessionMiddleware, "the key of the site itself", session_cookie="biscuit"
        )
        app = Starlette(routes=[Route("/login", login)], middleware=[ours])
    """,
    "of_wsgi": """
        from holdfast import WSGISessionMiddleware

        def login(environ, start_response):
            environ["holdfast.session"]["user_id"] = "ada"
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [publish().encode()]

        app = WSGISessionMiddleware(
            login, "the key of the site itself", session_cookie="biscuit"
        )
    """,
}
PUBLISH = """
import asyncio

from holdfast import Holdfast, SyncRunPublisher

def publish():
    SyncRunPublisher("hers", owner="user:ada").emit("t")
    SyncRunPublisher("his", owner="user:bob").emit("t")
    return ""

"""


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("of_flask", "asgi"),
        ("of_flask", "wsgi"),
        ("of_quart", "asgi"),
        ("of_quart_equipped", "itself"),
        ("of_starlette", "asgi"),
        ("of_wsgi", "asgi"),
        ("of_wsgi", "wsgi"),
    ],
)
def test_streams_know_the_sessions_that_an_application_keeps_under_a_name_and_key_of_its_own(
    name: str, server: str, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.py").write_text(PUBLISH + textwrap.dedent(SITES[name]))
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    env = {"PYTHONPATH": path, "HOLDFAST_STREAM_ACCESS": "session"}
    command = ["-m", "uvicorn", "holdfast.asgi:app", "--port", "{port}"]
    if server == "itself":
        command[2] = f"{name}:app"
    elif server == "wsgi":
        pytest.importorskip("gunicorn")
        command = ["-m", "gunicorn", "--bind", "127.0.0.1:{port}", "holdfast.wsgi:app"]
    served = serve(command, env={**env, "HOLDFAST_APP": f"{name}:app"})
    with httpx.Client(base_url=served.url, timeout=30) as client:
        events = "/streams/runs/{}/events".format
        assert client.get(events("hers")).status_code == 401
        client.get("/login")
        assert set(client.cookies) == {"biscuit"}
        assert client.get(events("hers")).json()["events"][0]["type"] == "t"
        assert client.get(events("his")).status_code == 403


KEY = "a key of sixteen characters"
OWNED = Settings(stream_access="session", session_rotate_after=60)


def flask_site(**config: Any) -> Any:
    app = flask.Flask("site")
    app.config.update(config)

    @app.get("/login")
    def login() -> str:
        flask.session["user_id"] = "ada"
        SyncRunPublisher("hers", owner="user:ada", settings=OWNED).emit("t")
        return ""

    return app


def visitor(app: Any, server: str) -> Any:
    if server == "asgi":
        return TestClient(bridged(app, OWNED))
    return Client(around_wsgi(app, OWNED), use_cookies=False)


@pytest.mark.parametrize("server", ["asgi", "wsgi"])
def test_streams_leave_it_to_flask_to_give_its_cookie_anew(server: str) -> None:
    before = flask_site(SECRET_KEY="the key of before")
    app = flask_site(SECRET_KEY=KEY, SECRET_KEY_FALLBACKS=["the key of before"])
    around: Any = bridged if server == "asgi" else around_wsgi
    around(before, OWNED)
    # Such a cookie ends with the browser, and only Flask knows of which session that is so.
    given = before.test_client().get("/login").headers["Set-Cookie"]
    assert "Max-Age" not in given
    assert "Expires" not in given
    headers = {"cookie": given.partition(";")[0]}
    client = visitor(app, server)
    with FrozenClock() as clock:
        clock.advance(100)
        answer = client.get("/streams/runs/hers/events", headers=headers)
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("server", ["asgi", "wsgi"])
def test_where_an_application_cannot_be_configured_its_streams_say_so_once(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = flask_site(SECRET_KEY=KEY, SESSION_COOKIE_SAMESITE="everywhere")
    client = visitor(wrong, server)
    for _ in range(2):
        assert client.get("/streams/runs/hers/events").status_code == 503
    assert caplog.text.count("is answered 503") == 1


@pytest.mark.parametrize("handled", [True, False])
def test_what_loads_an_application_hears_for_its_streams_that_it_stops(handled: bool) -> None:
    """gunicorn's threads serve in none that could."""

    def of_the_server(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, of_the_server)
    try:
        Holdfast(flask.Flask("site"), settings=Settings(stream_handle_signals=handled))
        assert (signal.getsignal(signal.SIGTERM) is not of_the_server) == handled
    finally:
        signal.signal(signal.SIGTERM, before)
