"""An app with long answers under sessions, for real server processes: its own and our streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from holdfast import EventStreamApp, RunPublisher, SessionMiddleware, get_session, stream_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.websockets import WebSocket


async def ticks() -> AsyncIterator[str]:
    """Tell for ever that time passes."""
    while True:
        yield "data: tick\n\n"
        await anyio.sleep(0.05)


async def events(request: Request) -> StreamingResponse:
    """Stream to whoever is logged in."""
    return StreamingResponse(ticks(), media_type=f"text/event-stream; for={_user(request)}")


async def public(request: Request) -> StreamingResponse:
    """Stream to everybody, whatever the cookie."""
    return StreamingResponse(ticks(), media_type="text/event-stream")


async def download(request: Request) -> StreamingResponse:
    """Send a file that takes a while."""
    return StreamingResponse(ticks(), media_type=f"text/csv; for={_user(request)}")


async def socket(websocket: WebSocket) -> None:
    """Keep a socket open, deaf and dumb, for whoever is logged in."""
    user = _user(websocket)
    await websocket.accept()
    await websocket.send_text(user)
    await anyio.sleep_forever()


async def login(request: Request) -> StreamingResponse:
    """Log in, by an answer that is a stream itself."""
    get_session(request)["user_id"] = "kim"
    return StreamingResponse(ticks(), media_type="text/event-stream")


async def run(request: Request) -> JSONResponse:
    """Begin two runs, and give a token for the first that is bound to the session."""
    for run_id in ("r1", "r2"):
        await RunPublisher(run_id).emit("hello", {})
    session = get_session(request)
    return JSONResponse(
        {
            "token": stream_token("r1", session=session),
            "free": stream_token("r1"),
            "other": stream_token("r2"),
        }
    )


async def renew(request: Request) -> JSONResponse:
    """Change the cookie."""
    get_session(request).regenerate_id()
    return JSONResponse("renewed")


async def logout(request: Request) -> JSONResponse:
    """End the session."""
    get_session(request).invalidate()
    return JSONResponse("bye")


def _user(connection: Request | WebSocket) -> str:
    return str(get_session(connection).get("user_id", "nobody"))


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/public", public),
        Route("/download", download),
        Route("/run", run, methods=["POST"]),
        Route("/login", login, methods=["POST"]),
        Route("/renew", renew, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        WebSocketRoute("/socket", socket),
        Mount("/streams", EventStreamApp()),
    ],
    middleware=[Middleware(SessionMiddleware)],
)
