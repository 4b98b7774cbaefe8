"""``Holdfast(app)``: one line, for each framework's own application."""

from __future__ import annotations

import subprocess
import sys

import flask
import pytest
import quart
from flask import Flask
from quart import Quart
from starlette.applications import Starlette

from holdfast import Holdfast
from holdfast.errors import ConfigurationError
from holdfast.settings import Settings

pytestmark = pytest.mark.anyio


def count_in(session: object) -> str:
    assert isinstance(session, flask.sessions.SessionMixin)
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


def test_another_app_is_told_what_to_use() -> None:
    with pytest.raises(TypeError, match="SessionMiddleware around an ASGI"):
        Holdfast(Starlette())  # type: ignore[arg-type]


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
