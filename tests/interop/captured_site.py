"""Endpoints that others wrote, on one site with a page that reads them; nothing of ours is in it.

It is served by ``holdfast serve``, with ``HOLDFAST_STREAM_CAPTURE`` naming them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
from collections import Counter
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

CALLS: Counter[str] = Counter()
WORDS = ("Kelp", "holds", "on", "to", "its", "rock", "through", "every", "storm")


class Counted:
    """Counts the calls that reach an application, by path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] == "http":
            CALLS[scope["path"]] += 1
        await self.app(scope, receive, send)


def of_the_readme() -> ASGIApp:
    """The first example of sse-starlette's own page; only its pauses last until a test says so."""
    text = str(metadata("sse-starlette").json["description"])
    (example, *_) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "asyncio.sleep(1)" in example
    names: dict[str, Any] = {"pause": pause}
    exec(example.replace("asyncio.sleep(1)", "pause()"), names)
    app: ASGIApp = names["app"]
    return app


ALLOWED = asyncio.Semaphore(0)


async def pause() -> None:
    """Wait until a test allows one more event."""
    await ALLOWED.acquire()


async def go(request: Request) -> Response:
    """Allow so many events more."""
    for _ in range(request.path_params["events"]):
        ALLOWED.release()
    return JSONResponse({})


def of_fastapi(name: str) -> ASGIApp:
    """One of FastAPI's own examples, where a test has unpacked them."""
    path = Path(os.environ["FASTAPI_EXAMPLES"]) / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: ASGIApp = module.app
    return app


async def completions(request: Request) -> Response:
    """Chat completions as OpenAI streams them."""
    CALLS["completions"] += 1
    await request.json()

    async def chunks() -> AsyncIterator[str]:
        for word in WORDS:
            delta = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "kelp"}
            yield f"data: {json.dumps({**chunk, 'choices': [delta]})}\n\n"
            await asyncio.sleep(0.15)
        yield "data: [DONE]\n\n"

    return StreamingResponse(chunks(), media_type="text/event-stream")


async def calls(request: Request) -> Response:
    """How often each endpoint was called."""
    return JSONResponse(dict(CALLS))


async def log_in(request: Request) -> Response:
    """Begin a session."""
    request.session["user_id"] = request.path_params["name"]
    return JSONResponse({})


async def page(request: Request) -> Response:
    """Read an endpoint with a plain ``EventSource``."""
    return HTMLResponse(PAGE)


PAGE = """<!doctype html><title>A page</title><script>
window.seen = []; window.opened = 0; window.last = ""; window.over = false;
function read(url, ...kinds) {
  const events = new EventSource(url);
  const take = (event) => { seen.push(event.data); last = event.lastEventId; };
  events.onmessage = take;
  for (const kind of kinds) events.addEventListener(kind, take);
  events.onopen = () => { opened += 1; };
  events.onerror = () => { over = events.readyState === EventSource.CLOSED; };
}
const asked = new URLSearchParams(location.search).get("read");
if (asked) read(asked);
</script>"""

ROUTES = [
    Route("/", page),
    Route("/calls", calls),
    Route("/go/{events:int}", go, methods=["POST"]),
    Route("/login/{name}", log_in),
    Route("/v1/chat/completions", completions, methods=["POST"]),
    Mount("/readme", Counted(of_the_readme())),
]
if "FASTAPI_EXAMPLES" in os.environ:
    ROUTES += [
        Mount(f"/fastapi/{name}", Counted(of_fastapi(name)))
        for name in ("tutorial001", "tutorial002", "tutorial003", "tutorial004", "tutorial005")
    ]

app = Starlette(routes=ROUTES)
