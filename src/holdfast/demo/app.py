"""A whole app on holdfast: a login, an agent at work in the background, a page that watches it.

Here is what any app would write. Sessions, streams, resuming and Redis come from the two mounts and
the environment; nothing below knows where they are kept, or which process a browser asks next.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from holdfast import (
    EventStreamApp,
    RunPublisher,
    SessionMiddleware,
    Settings,
    get_session,
    stream_token,
)
from holdfast.demo.agent import work
from holdfast.demo.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

STATIC = Path(__file__).parent / "static"
RUNS_KEPT = 12
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def create_app() -> Starlette:
    """Return the demo. ``HOLDFAST_*`` variables say where its sessions and runs are kept."""
    settings = Settings()
    in_memory = settings.redis_url is None or settings.session_store == "memory"
    app = Starlette(
        routes=[
            Route("/", page),
            Route("/api/session", show_session),
            Route("/api/login", log_in, methods=["POST"]),
            Route("/api/logout", log_out, methods=["POST"]),
            Route("/api/runs", start_run, methods=["POST"]),
            Route("/api/runs/{run_id}/token", show_token),
            Mount("/assets", StaticFiles(directory=STATIC)),
            Mount("/streams", EventStreamApp()),
        ],
        middleware=[Middleware(SessionMiddleware)],
        lifespan=end_runs,
    )
    app.state.agents = set()  # asyncio keeps no strong reference to a task
    app.state.store = "the memory of this process" if in_memory else "Redis"
    return app


@asynccontextmanager
async def end_runs(app: Starlette) -> AsyncIterator[None]:
    """When the server stops, let every agent leave its run: an open run would be waited for."""
    yield
    for agent in app.state.agents:
        agent.cancel()
    await asyncio.gather(*app.state.agents, return_exceptions=True)


async def page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)


async def show_session(request: Request) -> Response:
    """Answer what this browser's session holds and who serves it."""
    session = get_session(request)
    about = {
        "user": session.get("user_id"),
        "store": request.app.state.store,
        "data": dict(session),
        "available": session.available,
        "degraded": session.degraded,
        "id_hash": session.id_hash,
        "created_at": session.created_at and session.created_at.isoformat(),
        "expires_at": session.expires_at and session.expires_at.isoformat(),
        "process": os.getpid(),
        "tasks": {name: task.title for name, task in TASKS.items()},
    }
    return JSONResponse(about, headers={"Cache-Control": "no-store"})


async def log_in(request: Request) -> Response:
    name = str((await read_json(request)).get("name", "")).strip()
    if not 1 <= len(name) <= 40 or not name.isprintable():
        raise HTTPException(422, "A name has 1 to 40 printable characters.")
    session = get_session(request)
    session["user_id"] = name  # a new user means a new session id: that comes by itself
    session["logged_in_at"] = round(time.time(), 3)
    return await show_session(request)


async def log_out(request: Request) -> Response:
    require_same_origin(request)
    get_session(request).invalidate()
    return Response(status_code=204)


async def start_run(request: Request) -> Response:
    """Set an agent to work and answer at once: the run lives on its own from here."""
    user = require_user(request)
    asked = await read_json(request)
    name = str(asked.get("task"))
    if name not in TASKS:
        raise HTTPException(422, "No such task.")
    rounds, speed = number(asked, "rounds", 1, 25), number(asked, "speed", 0.1, 1000)
    run_id = f"demo-{secrets.token_hex(6)}"
    session = get_session(request)
    # One key a run: two tabs that start one at the same moment write different keys, and both stay.
    session[f"run:{run_id}"] = {"task": name, "started_at": round(time.time(), 3)}
    runs = [key for key in session if key.startswith("run:")]
    for key in sorted(runs, key=lambda run: session[run]["started_at"])[:-RUNS_KEPT]:
        del session[key]
    agent = asyncio.create_task(publish(run_id, f"user:{user}", name, int(rounds), speed))
    request.app.state.agents.add(agent)
    agent.add_done_callback(request.app.state.agents.discard)
    return JSONResponse({"run_id": run_id}, status_code=201)


async def publish(run_id: str, owner: str, task: str, rounds: int, speed: float) -> None:
    """Work on *task* and publish each step. Leaving the block ends the run, in whatever way."""
    async with RunPublisher(run_id, owner=owner) as run:
        async for kind, data in work(TASKS[task], rounds=rounds, speed=speed):
            if kind == "workflow_complete":
                await run.workflow_complete(data)
            else:
                await run.emit(kind, data)


async def show_token(request: Request) -> Response:
    """Answer a token for one of this session's runs: to read it, and to stop it."""
    require_user(request)
    run_id = request.path_params["run_id"]
    session = get_session(request)
    if f"run:{run_id}" not in session:
        raise HTTPException(404, "This session started no such run.")
    # Bound to the session: whoever logs out ends the streams of every tab with it.
    token = stream_token(run_id, ttl=3600, actions=("read", "stop"), session=session)
    return JSONResponse({"token": token}, headers={"Cache-Control": "no-store"})


def require_user(request: Request) -> str:
    user = get_session(request).get("user_id")
    if user is None:
        raise HTTPException(401, "Log in first.")
    return str(user)


async def read_json(request: Request) -> dict[str, Any]:
    require_same_origin(request)
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return body


def require_same_origin(request: Request) -> None:
    """Refuse a POST that another site's page had this browser send (CSRF, CWE-352).

    ``SameSite=Lax`` keeps the cookie from such a request already; sibling subdomains it lets pass.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    same = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not same or site not in {None, "same-origin", "none"}:
        raise HTTPException(403, "This request came from another site.")


def number(asked: dict[str, Any], name: str, least: float, most: float) -> float:
    value = asked.get(name, 1)
    if not isinstance(value, int | float) or not least <= value <= most:
        raise HTTPException(422, f"{name} must be a number from {least} to {most}.")
    return value
