"""An endpoint that knows nothing of holdfast, made resumable from outside: capture.

    pip install 'holdfast[cli]'
    HOLDFAST_STREAM_CAPTURE=/poem holdfast serve capture:app --app-dir examples

Then open http://127.0.0.1:8000, and load the page again or cut the network while the poem comes:
it goes on where it was, and is written once. Without ``holdfast serve`` it would begin anew.
In memory for one process; HOLDFAST_REDIS_URL and HOLDFAST_SECRET_KEY make it any number of them.
"""

import asyncio
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

SECONDS_PER_WORD = float(os.environ.get("SECONDS_PER_WORD", "0.5"))
POEM = "The kelp lets go of nothing that the tide would take from it"
WRITTEN = {"times": 0}


async def write() -> AsyncIterator[str]:
    WRITTEN["times"] += 1
    for word in POEM.split():
        yield f"data: {word}\n\n"
        await asyncio.sleep(SECONDS_PER_WORD)


async def poem(request: Request) -> Response:
    return StreamingResponse(write(), media_type="text/event-stream")


async def written(request: Request) -> Response:
    return JSONResponse(WRITTEN)


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


app = Starlette(routes=[Route("/", page), Route("/poem", poem), Route("/written", written)])

PAGE = """<!doctype html><title>A poem</title><p id=poem></p><p id=end></p>
<script>
const events = new EventSource("/poem");
events.onmessage = (event) => document.querySelector("#poem").append(event.data + " ");
events.onerror = async () => {
  if (events.readyState !== EventSource.CLOSED) return;  // it comes back by itself
  const { times } = await (await fetch("/written")).json();
  document.querySelector("#end").textContent = `Written ${times} time(s).`;
};
</script>"""
