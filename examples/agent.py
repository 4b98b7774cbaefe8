"""An endpoint whose answer survives a refresh and a lost network, and can be stopped.

    python examples/agent.py

Then open http://127.0.0.1:8000 (PORT changes it), ask, and load the page again while it answers.
With HOLDFAST_REDIS_URL and HOLDFAST_SECRET_KEY set, any number of processes can serve it.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import holdfast
from holdfast import RunResponse, SessionMiddleware, request_stop, session_access

ANSWER = "A holdfast is what keeps kelp on its rock through a storm. It is no root."
SECONDS_PER_WORD = float(os.environ.get("SECONDS_PER_WORD", "0.3"))


async def agent(question: str) -> AsyncIterator[tuple[str, Any]]:
    """Stands for a model that is called: it yields events as (type, data)."""
    yield "thinking", {"about": question}
    try:
        for word in ANSWER.split():
            await asyncio.sleep(SECONDS_PER_WORD)
            yield "token", {"text": word + " "}
    except asyncio.CancelledError:
        # Asked to stop, by whichever process: close what costs money, and leave.
        print("the agent stops")
        raise


async def answer(request: Request) -> Response:
    # The browser chose the id. The first request for it begins the run; each later one, from
    # wherever, goes on where its Last-Event-ID says, and calls no agent.
    question = request.query_params.get("q", "")
    return RunResponse(request.path_params["run_id"], agent(question))


async def stop(request: Request) -> Response:
    run_id = request.path_params["run_id"]
    if not await session_access(request, run_id, "stop"):
        return JSONResponse({"error": "not yours"}, 403)
    return JSONResponse({"stop": await request_stop(run_id)})


async def page(request: Request) -> Response:
    request.session.setdefault("since", time.time())  # now there is somebody to own a run
    return HTMLResponse(PAGE)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    await holdfast.aclose()  # ends the runs of this process, and tells their readers


PAGE = """<!doctype html><title>holdfast</title>
<form><input name="q" value="What is a holdfast?" size="40"> <button>Ask</button>
<button type="button" id="stop">Stop</button></form><p id="text"></p><p id="state"></p>
<script>
const text = document.querySelector("#text"), state = document.querySelector("#state");
let source;
function listen(run, question) {
  text.textContent = ""; state.textContent = "…";
  source?.close();
  source = new EventSource(`/answers/${run}?q=${encodeURIComponent(question)}`);
  source.addEventListener("token", (e) => { text.textContent += JSON.parse(e.data).text; });
  for (const end of ["workflow_complete", "workflow_error", "run_stopped", "run_lost"])
    source.addEventListener(end, () => { state.textContent = end; source.close(); });
}
document.forms[0].onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.run = `answer-${crypto.randomUUID()}`;  // an id is used once
  sessionStorage.question = event.target.q.value;
  listen(sessionStorage.run, sessionStorage.question);
};
document.querySelector("#stop").onclick = () =>
  fetch(`/answers/${sessionStorage.run}/stop`, { method: "POST" });
if (sessionStorage.run)  // the page was loaded again
  listen(sessionStorage.run, sessionStorage.question);
</script>"""

app = Starlette(
    routes=[
        Route("/", page),
        Route("/answers/{run_id}", answer),
        Route("/answers/{run_id}/stop", stop, methods=["POST"]),
    ],
    middleware=[Middleware(SessionMiddleware)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
