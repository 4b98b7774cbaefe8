"""A basket, and a delivery that its page follows: sessions and event streams on Starlette.

    pip install 'holdfast[cli]'
    python examples/starlette_app.py        # then open http://127.0.0.1:8000 (PORT changes it)

Without variables it runs in memory, for one process; HOLDFAST_REDIS_URL and HOLDFAST_SECRET_KEY
make it any number of them.
"""

import asyncio
import os
import secrets

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from holdfast import EventStreamApp, RunPublisher, SessionMiddleware, start_run, stream_token

SECONDS_PER_STEP = float(os.environ.get("SECONDS_PER_STEP", "1"))


async def put(request: Request) -> Response:
    request.session.setdefault("basket", []).append(request.path_params["thing"])
    return JSONResponse(request.session["basket"])  # a change inside a value is kept


async def deliver(request: Request) -> Response:
    things = request.session.pop("basket", [])
    request.session["delivery"] = run_id = f"delivery-{secrets.token_hex(8)}"

    async def van(run: RunPublisher) -> None:  # goes on when this request is answered
        for thing in things:
            await asyncio.sleep(SECONDS_PER_STEP)
            await run.emit("delivered", {"thing": thing})

    await start_run(run_id, van)
    return await follow(request)


async def follow(request: Request) -> Response:
    """Say where the delivery of this session is followed."""
    run_id = request.session.get("delivery")
    if run_id is None:
        return JSONResponse(None, 404)
    return JSONResponse(f"/streams/runs/{run_id}/events/stream?token={stream_token(run_id)}")


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


app = Starlette(
    routes=[
        Route("/", page),
        Route("/basket/{thing}", put, methods=["POST"]),
        Route("/delivery", deliver, methods=["POST"]),
        Route("/delivery", follow),
        Mount("/streams", EventStreamApp()),
    ],
    middleware=[Middleware(SessionMiddleware)],
)

PAGE = """<!doctype html><title>A basket</title>
<button id=put>One more kelp</button> <button id=deliver>Deliver</button> <ul id=log></ul>
<script>
const tell = (text) => document.querySelector("#log").append(text, document.createElement("br"));
async function follow(method) {
  const answer = await fetch("/delivery", { method });
  if (!answer.ok) return;
  const events = new EventSource(await answer.json());
  events.addEventListener("delivered", (e) => tell(JSON.parse(e.data).thing + " is there"));
  events.addEventListener("workflow_complete", () => { tell("That was all."); events.close(); });
}
document.querySelector("#put").onclick = async () =>
  tell("in the basket: " + await (await fetch("/basket/kelp", { method: "POST" })).json());
document.querySelector("#deliver").onclick = () => follow("POST");
follow("GET");  // the page was loaded again
</script>"""

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
