"""The app of the storm: it serves streams and publishes runs, and says what it was told of each."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from holdfast import EventStore, EventStreamApp, RunPublisher

if TYPE_CHECKING:
    from starlette.requests import Request

PATIENCE = 120.0

_feeds: dict[str, asyncio.Task[None]] = {}
_told: dict[str, list[list[Any]]] = {}
_errors: list[str] = []
_stopping = asyncio.Event()


async def feed(request: Request) -> Response:
    """Publish a run until told to stop, as *p*, ``pause`` seconds between two events or so."""
    run, query = request.path_params["run"], request.query_params
    work = _feed(run, query["p"], float(query["pause"]))
    _feeds[run] = asyncio.create_task(work)
    return JSONResponse({})


async def _feed(run: str, name: str, pause: float) -> None:
    told = _told.setdefault(run, [])
    publisher = RunPublisher(run)
    n = 0
    try:
        while not _stopping.is_set():
            some = range(n + 1, n + random.choice((1, 1, 1, 2, 5)) + 1)
            events = await asyncio.gather(*(publisher.emit("t", {"p": name, "n": n}) for n in some))
            told += [[n, event.id] for n, event in zip(some, events, strict=True)]
            n = some[-1]
            await asyncio.sleep(random.uniform(0, 2 * pause))
    except Exception as error:  # noqa: BLE001 - the judgement is the harness's
        _errors.append(f"{run}: {error!r}")


async def stop(request: Request) -> Response:
    """Stop to publish; return what was acknowledged of each run, once all of it is stored."""
    _stopping.set()
    store: Any = EventStore.from_settings()
    _, stuck = await asyncio.wait(_feeds.values(), timeout=PATIENCE)
    if stuck:
        runs = [run for run, task in _feeds.items() if task in stuck]
        _errors.append(f"publishers wait for ever: {runs[:5]}, {store!r}")
        return JSONResponse({"told": _told, "errors": _errors})
    async with asyncio.timeout(PATIENCE):
        while store.journalled or not store.available:
            await asyncio.sleep(0.02)
    return JSONResponse({"told": _told, "errors": _errors})


async def end(request: Request) -> Response:
    await RunPublisher(request.path_params["run"]).workflow_complete()
    return JSONResponse({})


app = Starlette(
    routes=[
        Route("/feed/{run}", feed, methods=["POST"]),
        Route("/stop", stop, methods=["POST"]),
        Route("/end/{run}", end, methods=["POST"]),
        Mount("/streams", EventStreamApp()),
    ]
)
