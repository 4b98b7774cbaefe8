"""A Quart app with long answers under its sessions, for real server processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from quart import Quart, Response, session, stream_with_context, websocket

from holdfast.quart import QuartSessionInterface

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = Quart(__name__)
app.session_interface = QuartSessionInterface()  # type: ignore[assignment]


async def ticks() -> AsyncIterator[str]:
    """Tell for ever that time passes."""
    while True:
        yield "data: tick\n\n"
        await asyncio.sleep(0.05)


async def once() -> AsyncIterator[str]:
    """Say one thing, and be silent."""
    yield "data: one\n\n"
    await asyncio.sleep(600)


async def _late() -> AsyncIterator[str]:
    yield f"data: {session['user_id']}\n\n"
    async for tick in ticks():
        yield tick


def _stream(body: AsyncIterator[str], media_type: str = "text/event-stream") -> Response:
    answer = Response(body, mimetype=media_type)
    answer.timeout = None
    return answer


@app.post("/login")
async def login() -> Response:
    """Log in, by an answer that is a stream itself."""
    session["user_id"] = "kim"
    return _stream(ticks())


@app.post("/logout")
async def logout() -> dict[str, bool]:
    """Log out."""
    session.clear()
    return {"ok": True}


@app.get("/events")
async def events() -> Response:
    """Stream to whoever is logged in."""
    return _stream(ticks(), f"text/event-stream; for={session['user_id']}")


@app.get("/silent")
async def silent() -> Response:
    """Stream one thing to whoever is logged in."""
    return _stream(once(), f"text/event-stream; for={session['user_id']}")


@app.get("/late")
async def late() -> Response:
    """Stream to whoever is logged in, as the generator finds."""
    return _stream(stream_with_context(_late)())


@app.get("/public")
async def public() -> Response:
    """Stream to everybody, whatever the cookie."""
    return _stream(ticks())


@app.get("/download")
async def download() -> Response:
    """Send a file that takes a while."""
    return _stream(ticks(), f"text/csv; for={session['user_id']}")


@app.websocket("/ws")
async def socket() -> None:
    """Keep a socket open that says who is there, and nothing more."""
    await websocket.send(session["user_id"])
    await asyncio.sleep(600)


@app.websocket("/ws/loud")
async def loud() -> None:
    """Keep a socket open that never stops talking."""
    user = session["user_id"]
    while True:
        await websocket.send(user)
        await asyncio.sleep(0.01)


@app.websocket("/ws/public")
async def socket_for_all() -> None:
    """Keep a socket open that asks nobody who is there."""
    await websocket.send("hello")
    await asyncio.sleep(600)
