"""The apps that the tests serve as real processes: streams, and a way to publish from inside."""

from __future__ import annotations

import asyncio
import os
import resource
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from holdfast import EventStore, EventStreamApp, RunPublisher
from holdfast.streams.select import hub_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

_tasks: set[asyncio.Task[None]] = set()


async def emit(request: Request) -> Response:
    """Publish ``count`` events from ``first`` on, wait for them, and end the run if asked."""
    query = request.query_params
    publisher = RunPublisher(request.path_params["run"])
    first, count = int(query.get("first", "1")), int(query.get("count", "1"))
    fill = {"x": "x" * int(query["size"])} if "size" in query else {}
    ids = [(await publisher.emit("t", {"n": n, **fill})).id for n in range(first, first + count)]
    if query.get("end"):
        ids.append((await publisher.workflow_complete()).id)
    return JSONResponse(ids)


async def start(request: Request) -> Response:
    """Publish in the background, ``pause`` seconds between two events."""
    query = request.query_params
    run, count = request.path_params["run"], int(query["count"])
    first, pause = int(query.get("first", "1")), float(query.get("pause", "0"))

    async def publish() -> None:
        async with RunPublisher(run) as publisher:
            for n in range(first, first + count):
                await publisher.emit("t", {"n": n})
                await asyncio.sleep(pause)

    task = asyncio.create_task(publish())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return JSONResponse({})


async def state(request: Request) -> Response:
    hub = hub_of(EventStore.from_settings())
    return JSONResponse(
        {
            "hub": repr(hub),
            "rings": len(hub._rings),
            "ring_bytes": sum(ring._bytes for ring in hub._rings.values()),
            "subscribers": len(hub.subscribers),
            "tasks": len(asyncio.all_tasks()),
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )


class _Plain(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-plain"] = "1"
        return response


def _middleware() -> list[Middleware]:
    chosen = os.environ.get("TEST_MIDDLEWARE", "")
    known = {"gzip": Middleware(GZipMiddleware, minimum_size=0), "base": Middleware(_Plain)}
    return [known[name] for name in chosen.split(",") if name]


def make_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/emit/{run:path}", emit, methods=["POST"]),
            Route("/start/{run:path}", start, methods=["POST"]),
            Route("/state", state),
            Mount("/streams", EventStreamApp()),
        ],
        middleware=_middleware(),
    )


class _Late:
    """An app that is made at the first scope, as Starlette makes its middleware."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._made: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._made = self._made or self._make()
        await self._made(scope, receive, send)


app = _Late(make_app)
alone = _Late(EventStreamApp)


def __getattr__(name: str) -> Any:
    """Make ``early`` at import, before a loop runs, but only for who asks for it."""
    if name == "early":
        return make_app()
    raise AttributeError(name)
