"""The app of the matrix: every door of holdfast, on one process, and nothing of a test's judgement.

A client sees what it would of any app; what is right about it is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import threading
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from holdfast import EventStreamApp, OAuthStateStore, RunPublisher, SessionMiddleware, get_session

if TYPE_CHECKING:
    from starlette.requests import Request


async def free(_: Request) -> Response:
    """Answer without a glance at the session."""
    return JSONResponse({})


async def show(request: Request) -> Response:
    session = get_session(request)
    data = dict[str, Any](session)
    about = {"available": session.available, "degraded": session.degraded, "data": data}
    return JSONResponse(about)


async def write(request: Request) -> Response:
    session = get_session(request)
    session[request.path_params["key"]] = request.path_params["value"]
    return JSONResponse({})


async def log_in(request: Request) -> Response:
    get_session(request)["user_id"] = request.path_params["user"]
    return JSONResponse({})


async def log_out(request: Request) -> Response:
    get_session(request).invalidate()
    return JSONResponse({})


async def rotate(request: Request) -> Response:
    get_session(request).regenerate_id()
    return JSONResponse({})


async def issue(request: Request) -> Response:
    states: OAuthStateStore = request.app.state.states
    state = await states.issue(request, {"verifier": request.path_params["verifier"]})
    response = JSONResponse({"state": state})
    states.set_cookie(request, response)
    return response


async def consume(request: Request) -> Response:
    states: OAuthStateStore = request.app.state.states
    data = await states.consume(request, request.path_params["state"])
    return JSONResponse(data) if data else JSONResponse({}, 400)


async def emit(request: Request) -> Response:
    """Publish the numbers from ``first`` on, as ``by``, and end the run if asked."""
    query = request.query_params
    publisher = RunPublisher(request.path_params["run"], owner=f"user:{query['owner']}")
    first, count = int(query["first"]), int(query["count"])
    for n in range(first, first + count):
        await publisher.emit("t", {"p": query["by"], "n": n})
    if "end" in query:
        await publisher.workflow_complete()
    return JSONResponse({})


async def inside(_: Request) -> Response:
    """Count what could leak."""
    return JSONResponse({"tasks": len(asyncio.all_tasks()), "threads": threading.active_count()})


def create_app() -> Starlette:
    """Return the app; ``HOLDFAST_*`` variables say the rest. SIGUSR1 has it print its stacks."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    app = Starlette(
        routes=[
            Route("/free", free),
            Route("/me", show),
            Route("/write/{key}/{value}", write, methods=["POST"]),
            Route("/login/{user}", log_in, methods=["POST"]),
            Route("/logout", log_out, methods=["POST"]),
            Route("/rotate", rotate, methods=["POST"]),
            Route("/issue/{verifier}", issue, methods=["POST"]),
            Route("/consume/{state}", consume),
            Route("/emit/{run}", emit, methods=["POST"]),
            Route("/inside", inside),
            Mount("/streams", EventStreamApp()),
        ],
        middleware=[Middleware(SessionMiddleware)],
    )
    app.state.states = OAuthStateStore()
    return app
