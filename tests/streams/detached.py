"""The app whose endpoint answers with a run, for tests that serve it in several processes."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from holdfast import EventStreamApp, RunResponse, request_stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

stopped_at: dict[str, float] = {}


async def numbers(run: str, count: int, pause: float) -> AsyncIterator[Any]:
    """Count, and say which process does."""
    try:
        for n in range(1, count + 1):
            yield "t", {"n": n, "pid": os.getpid()}
            await asyncio.sleep(pause)
    except asyncio.CancelledError:
        stopped_at[run] = time.time()
        raise


async def answer(request: Request) -> Response:
    run = request.path_params["run"]
    count = int(request.query_params.get("count", "10"))
    pause = float(request.query_params.get("pause", "0.01"))
    return RunResponse(run, numbers(run, count, pause))


async def stop(request: Request) -> Response:
    asked = time.time()
    said = await request_stop(request.path_params["run"])
    return JSONResponse({"asked": asked, "said": said})


async def stopped(request: Request) -> Response:
    return JSONResponse(stopped_at.get(request.path_params["run"]))


app = Starlette(
    routes=[
        Route("/answer/{run}", answer, methods=["GET", "POST"]),
        Route("/stop/{run}", stop, methods=["POST"]),
        Route("/stopped/{run}", stopped),
        Mount("/streams", EventStreamApp()),
    ]
)
