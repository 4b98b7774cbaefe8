"""A job that another process does, watched and stopped in the browser.

    HOLDFAST_REDIS_URL=redis://localhost:6379/0 HOLDFAST_SECRET_KEY=... python examples/worker.py

Then open http://127.0.0.1:8000 (PORT changes it). The pool of processes stands for Celery, RQ or
Dramatiq: `count_words` is the body of a task there.
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from holdfast import EventStreamApp, SyncRunPublisher, stream_token

TEXT = "A holdfast is what keeps kelp on its rock through a storm"
SECONDS_PER_WORD = 0.2


# --- the worker: no event loop, plain calls -------------------------------------------------------


def count_words(run_id: str, text: str) -> int:
    """Count the words of *text*, slowly. Leaving the block ends the run, whatever happens."""
    count = 0
    with SyncRunPublisher(run_id) as run:
        for word in text.split():
            run.emit("word", {"word": word})  # after a stop this leaves the block
            time.sleep(SECONDS_PER_WORD)
            count += 1
        run.workflow_complete({"words": count})
    return count


# --- the web application --------------------------------------------------------------------------


async def start(request: Request) -> Response:
    run_id = f"words-{secrets.token_hex(8)}"  # an id is used once
    loop = asyncio.get_running_loop()
    loop.run_in_executor(request.app.state.pool, count_words, run_id, TEXT)
    token = stream_token(run_id, actions=("read", "stop"))
    return JSONResponse({"url": f"/streams/runs/{run_id}", "token": token})


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    with ProcessPoolExecutor(2) as app.state.pool:
        yield


app = Starlette(
    routes=[
        Route("/", page),
        Route("/jobs", start, methods=["POST"]),
        Mount("/streams", EventStreamApp()),
    ],
    lifespan=lifespan,
)

PAGE = """<!doctype html>
<meta charset=utf-8>
<title>A job in a worker</title>
<button id=start>Start</button> <button id=stop disabled>Stop</button>
<p id=words></p>
<script>
const $ = (id) => document.getElementById(id);
let job;
$("start").onclick = async () => {
  job = await (await fetch("/jobs", {method: "POST"})).json();
  $("words").textContent = "";
  $("stop").disabled = false;
  const events = new EventSource(`${job.url}/events/stream?token=${job.token}`);
  events.addEventListener("word", (e) => ($("words").textContent += JSON.parse(e.data).word + " "));
  for (const end of ["workflow_complete", "workflow_error", "run_stopped", "run_lost"])
    events.addEventListener(end, () => {
      events.close();
      $("words").textContent += `(${end})`;
      $("stop").disabled = true;
    });
};
$("stop").onclick = () =>
  fetch(`${job.url}/stop`, {method: "POST", headers: {Authorization: `Bearer ${job.token}`}});
</script>
"""

if __name__ == "__main__":
    if not os.environ.get("HOLDFAST_REDIS_URL"):
        sys.exit("Two processes share events through Redis: set HOLDFAST_REDIS_URL.")
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
