"""A board of jobs that come and go, all of them followed over one connection.

    python examples/board.py

Then open http://127.0.0.1:8000 (PORT changes it), start jobs, stop one, and load the page again.
With HOLDFAST_REDIS_URL and HOLDFAST_SECRET_KEY set, any number of processes can serve it.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

import holdfast
from holdfast import EventStreamApp, start_run, stream_token

SECONDS_PER_STEP = float(os.environ.get("SECONDS_PER_STEP", "0.5"))
STEPS = 20


async def job() -> AsyncIterator[tuple[str, Any]]:
    """Stands for work that takes a while and tells how far it is."""
    for step in range(1, STEPS + 1):
        await asyncio.sleep(SECONDS_PER_STEP)
        yield "progress", {"step": step, "of": STEPS}


async def start(request: Request) -> Response:
    run_id = f"{request.path_params['board']}:{uuid.uuid4().hex[:8]}"
    await start_run(run_id, job())
    return JSONResponse({"run": run_id})


async def token(request: Request) -> Response:
    # A real app asks first who it is. One token opens every job of the board.
    board = request.path_params["board"]
    return Response(stream_token(f"{board}:", 600, prefix=True, actions=("read", "stop")))


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    await holdfast.aclose()  # ends the runs of this process, and tells their readers


PAGE = """<!doctype html><title>holdfast</title>
<button id="start">Start a job</button><ul></ul>
<script type="module">
import { follow } from "/streams/holdfast.js";

const board = (sessionStorage.board ??= crypto.randomUUID());
const jobs = JSON.parse(sessionStorage.jobs ?? "[]");
let following;

function row(run) {
  const known = document.getElementById(run);
  if (known) return known;
  const made = Object.assign(document.createElement("li"), { id: run });
  made.append("…", Object.assign(document.createElement("button"), { textContent: "Stop" }));
  made.lastChild.onclick = () => following.stop(run);
  document.querySelector("ul").append(made);
  return made;
}

function show(run, text, over) {
  row(run).firstChild.textContent = text + " ";
  if (over) row(run).querySelector("button")?.remove();
}

function watch(run) {
  row(run);
  if (following && following.state !== "ended") return following.add(run);
  following = follow("/streams/events/stream", {
    runs: [...jobs],
    token: async () => (await fetch(`/boards/${board}/token`)).text(),
    onEvent: ({ run_id, type, data }) =>
      show(run_id, type === "progress" ? `${data.step} of ${data.of}` : type),
    onRunEnd: ({ run_id, code }) => show(run_id, code ?? row(run_id).firstChild.textContent, true),
  });
}

document.querySelector("#start").onclick = async () => {
  const { run } = await (await fetch(`/boards/${board}/jobs`, { method: "POST" })).json();
  jobs.push(run);
  sessionStorage.jobs = JSON.stringify(jobs);
  watch(run);
};
jobs.forEach(row);
if (jobs.length) watch(jobs[0]);
</script>"""

app = Starlette(
    routes=[
        Route("/", page),
        Route("/boards/{board}/jobs", start, methods=["POST"]),
        Route("/boards/{board}/token", token),
        Mount("/streams", EventStreamApp()),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
