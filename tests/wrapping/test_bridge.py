"""A WSGI application on an ASGI server: its threads, where a request ends before they do."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING

import pytest

from holdfast.settings import Settings
from holdfast.wrapping.around import bridged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from starlette.types import Message, Scope

SETTINGS = Settings(secret_key=["a key of sixteen characters"])
SCOPE: Scope = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/endless",
    "query_string": b"",
    "headers": [],
}
PATIENCE = 20.0


class Endless:
    """An application whose answer goes on until somebody ends it."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return self._parts()

    def _parts(self) -> Iterator[bytes]:
        try:
            for number in itertools.count():
                yield b"%d\n" % number
        finally:
            self.ended.set()


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def until_ended(app: Endless) -> bool:
    return await asyncio.to_thread(app.ended.wait, PATIENCE)


@pytest.mark.parametrize("slow", [False, True], ids=["taken", "waited for"])
async def test_a_cancelled_request_ends_its_thread(slow: bool) -> None:
    app, some = Endless(), asyncio.Event()
    count = itertools.count()

    async def send(message: Message) -> None:
        if next(count) == 20:
            some.set()
            if slow:
                await asyncio.Event().wait()

    serving = asyncio.ensure_future(bridged(app, SETTINGS)(SCOPE, receive, send))
    async with asyncio.timeout(PATIENCE):
        await some.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert await until_ended(app)


async def test_a_server_that_takes_no_more_ends_the_thread_and_is_told_why() -> None:
    app = Endless()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has left")

    with pytest.raises(OSError, match="has left"):
        async with asyncio.timeout(PATIENCE):
            await bridged(app, SETTINGS)(SCOPE, receive, send)
    assert await until_ended(app)


async def test_an_application_that_fails_after_the_request_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, going = asyncio.Event(), threading.Event()

    def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"begun"
        going.wait(PATIENCE)  # it is in the middle of its next part
        raise ValueError("too late")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            begun.set()

    serving = asyncio.ensure_future(bridged(failing, SETTINGS)(SCOPE, receive, send))
    async with asyncio.timeout(PATIENCE):
        await begun.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    going.set()
    async with asyncio.timeout(PATIENCE):
        while "too late" not in caplog.text:
            await asyncio.sleep(0.01)


async def test_of_an_application_that_fails_nothing_is_sent_any_more() -> None:
    stuck, given_up = threading.Event(), asyncio.Event()

    def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"begun"
        stuck.wait(PATIENCE)
        raise ValueError("broken")

    async def send(message: Message) -> None:
        stuck.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    with pytest.raises(ValueError, match="broken"):
        await bridged(failing, SETTINGS)(SCOPE, receive, send)
    async with asyncio.timeout(PATIENCE):
        await given_up.wait()
