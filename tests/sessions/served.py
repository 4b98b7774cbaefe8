"""A small shop that real server processes serve: its sessions come from the environment alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from holdfast import SessionMiddleware, get_session

if TYPE_CHECKING:
    from starlette.requests import Request


async def put(request: Request) -> JSONResponse:
    """Write one key, after a while in which others write theirs."""
    key = request.path_params["key"]
    session = get_session(request)
    await anyio.sleep(float(request.query_params.get("slow", "0")))
    session[key] = key
    return JSONResponse(session.id_hash)


async def count(request: Request) -> JSONResponse:
    """Count up, together with everybody else who does."""
    return JSONResponse(await get_session(request).incr("n"))


async def show(request: Request) -> JSONResponse:
    """Answer all that the session holds."""
    return JSONResponse(dict[str, Any](request.session))


async def login(request: Request) -> JSONResponse:
    """Say who it is, which changes the cookie."""
    get_session(request)["user_id"] = request.path_params["user"]
    return JSONResponse("welcome")


async def renew(request: Request) -> JSONResponse:
    """Change the cookie."""
    get_session(request).regenerate_id()
    return JSONResponse("renewed")


async def logout(request: Request) -> JSONResponse:
    """End the session."""
    get_session(request).invalidate()
    return JSONResponse("bye")


app = Starlette(
    routes=[
        Route("/", show),
        Route("/put/{key}", put, methods=["POST"]),
        Route("/count", count, methods=["POST"]),
        Route("/login/{user}", login, methods=["POST"]),
        Route("/renew", renew, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
    ],
    middleware=[Middleware(SessionMiddleware)],
)
