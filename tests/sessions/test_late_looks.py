"""A session that somebody keeps for longer than its stream or socket: looking at it is harmless."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from tests.sessions.browser import Browser

from holdfast import MemorySessionStore, SessionMiddleware
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

SETTINGS = Settings(secret_key="a key of more than sixteen characters")


class Keeping:
    """Serves a stream or socket without a look at its session, and keeps what it was given."""

    def __init__(self, *, send_too: bool) -> None:
        self.send_too = send_too
        self.kept: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        if scope["path"] == "/in":
            session["user_id"] = 7
        else:
            self.kept += [session, send] if self.send_too else [session]
        await receive()
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def served(kind: str, *, send_too: bool) -> list[Any]:
    """Return what is kept of a visit on an event loop that is closed since."""
    app = Keeping(send_too=send_too)
    browser = Browser(SessionMiddleware(app, settings=SETTINGS, store=MemorySessionStore()))

    async def visit() -> None:
        await browser.get("/in")
        answer = await (browser.get() if kind == "http" else browser.socket())
        assert answer.start

    asyncio.run(visit())
    return app.kept


@pytest.mark.parametrize("send_too", [False, True], ids=["alone", "with-its-answer"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_it_can_be_looked_at_when_its_loop_is_closed(kind: str, *, send_too: bool) -> None:
    kept = served(kind, send_too=send_too)
    kept[0].mark_accessed()
    assert dict(kept[0]) == {"user_id": 7}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.usefixtures("no_collector")
def test_it_goes_without_the_garbage_collector(kind: str) -> None:
    kept = served(kind, send_too=False)
    session = weakref.ref(kept.pop())
    assert session() is None
