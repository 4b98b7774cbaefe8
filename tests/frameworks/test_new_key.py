"""A new signing key for applications that share their sessions, one of them at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, session
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from holdfast import SessionMiddleware, Settings
from holdfast.flask import FlaskSessionInterface
from holdfast.sessions.stores.memory import MemorySessionStore

if TYPE_CHECKING:
    from starlette.requests import Request

OLD, NEW = "the key that all have had so far", "the key that all are to have now"
STEPS = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]


class Browser:
    """A visitor of both applications, each with the keys that it has by now."""

    def __init__(self) -> None:
        self.cookie = ""
        self._store = MemorySessionStore()

    def at_flask(self, path: str, *keys: str) -> Any:
        app = Flask("shop")
        settings = Settings(secret_key=keys)
        app.session_interface = FlaskSessionInterface(settings=settings, store=self._store)

        @app.get("/me")
        def me() -> dict[str, Any]:
            return dict(session)

        @app.get("/login")
        def log_in() -> dict[str, Any]:
            session["user_id"] = "ada"
            return {}

        client = app.test_client()
        if self.cookie:
            client.set_cookie("session", self.cookie)
        answer = client.get(path)
        if (kept := client.get_cookie("session")) is not None:
            self.cookie = kept.value
        return answer.json

    def at_starlette(self, *keys: str) -> Any:
        async def me(request: Request) -> JSONResponse:
            return JSONResponse(dict(request.session))

        settings = Settings(secret_key=keys)
        app = SessionMiddleware(
            Starlette(routes=[Route("/me", me)]), settings=settings, store=self._store
        )
        with TestClient(app, cookies={"session": self.cookie}) as client:
            answer = client.get("/me")
        self.cookie = answer.cookies.get("session") or self.cookie
        return answer.json()


@pytest.mark.parametrize("first", ["flask", "starlette"])
def test_a_new_key_goes_round_in_steps_and_nobody_is_logged_out(first: str) -> None:
    browser = Browser()
    browser.at_flask("/login", *STEPS[0])
    for before, after in pairwise(STEPS):
        for ahead, behind in ((after, before), (after, after)):
            shop, api = (ahead, behind) if first == "flask" else (behind, ahead)
            for _ in range(2):
                assert browser.at_flask("/me", *shop) == {"user_id": "ada"}
                assert browser.at_starlette(*api) == {"user_id": "ada"}


def test_who_has_a_cookie_by_a_key_that_one_has_not_yet_is_not_known_there() -> None:
    browser = Browser()
    browser.at_flask("/login", NEW, OLD)
    assert browser.at_starlette(OLD) == {}
    assert browser.at_starlette(OLD, NEW) == {"user_id": "ada"}, "and is again, when it has it"
