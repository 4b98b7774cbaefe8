"""A login, and a report that writes itself while its page watches: sessions and a run on FastAPI.

    pip install fastapi 'holdfast[cli]'
    python examples/fastapi_app.py        # then open http://127.0.0.1:8000 (PORT changes it)

Log in, order a report, and load the page again while it is written. Without variables it runs in
memory, for one process; HOLDFAST_REDIS_URL and HOLDFAST_SECRET_KEY make it any number of them.
"""

import asyncio
import os
import secrets
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse

from holdfast import (
    EventStreamApp,
    RunPublisher,
    Session,
    SessionMiddleware,
    get_session,
    start_run,
    stream_token,
)

SECONDS_PER_LINE = float(os.environ.get("SECONDS_PER_LINE", "0.5"))

app = FastAPI()
app.add_middleware(SessionMiddleware)
app.mount("/streams", EventStreamApp())


async def session_of(request: Request) -> Session:
    return get_session(request)


Visit = Annotated[Session, Depends(session_of)]


@app.post("/login/{name}")
async def log_in(name: str, session: Visit) -> dict[str, str]:
    session["user_id"] = name  # another user: the session gets a new id by itself
    return {"user": name}


@app.post("/logout")
async def log_out(session: Visit) -> dict[str, None]:
    session.invalidate()  # and what it reads ends with it
    return {"user": None}


@app.post("/report")
async def order(session: Visit) -> dict[str, str]:
    if "user_id" not in session:
        raise HTTPException(401, "log in first")
    session["report"] = run_id = f"report-{secrets.token_hex(8)}"  # an id is used once
    await start_run(run_id, write, owner=session.owner)  # goes on when this request is answered
    return show(session)


@app.get("/report")
def show(session: Visit) -> dict[str, str]:
    """Say where the last report of this session is read, to this session alone."""
    if "report" not in session:
        raise HTTPException(404, "no report was ordered")
    run_id = session["report"]
    token = stream_token(run_id, session=session)
    return {"url": f"/streams/runs/{run_id}/events/stream?token={token}"}


async def write(run: RunPublisher) -> None:
    for line in ("Kelp has no roots.", "It has a holdfast.", "It holds."):
        await asyncio.sleep(SECONDS_PER_LINE)
        await run.emit("line", {"text": line})


@app.get("/")
def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


PAGE = """<!doctype html><title>A report</title>
<button id=login>Log in as Ada</button> <button id=order>Order a report</button>
<button id=logout>Log out</button> <ol id=lines></ol>
<script>
const ask = (path, method = "POST") => fetch(path, { method });
async function read(answer) {
  if (!answer.ok) return;
  document.querySelector("#lines").textContent = "";
  const events = new EventSource((await answer.json()).url);
  events.addEventListener("line", (event) => {
    const line = document.createElement("li");
    line.textContent = JSON.parse(event.data).text;
    document.querySelector("#lines").append(line);
  });
  events.addEventListener("workflow_complete", () => events.close());
}
document.querySelector("#login").onclick = () => ask("/login/ada");
document.querySelector("#logout").onclick = () => ask("/logout").then(() => location.reload());
document.querySelector("#order").onclick = () => ask("/report").then(read);
ask("/report", "GET").then(read);  // the page was loaded again
</script>"""

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
