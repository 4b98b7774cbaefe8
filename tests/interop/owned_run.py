"""An app whose session owns a run, and a page of somebody else that tries to stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from holdfast import EventStore, EventStreamApp, RunPublisher, SessionMiddleware, get_session

if TYPE_CHECKING:
    from starlette.requests import Request

RUN = "mine"


async def login(request: Request) -> Response:
    """Log in, and begin a run that belongs to whoever that is."""
    request.session["user_id"] = 7
    await RunPublisher(RUN, owner=get_session(request).owner).emit("t", 1)
    return HTMLResponse("<title>ours</title>")


async def state(request: Request) -> Response:
    """Say how many events there are, and whether the run was asked to stop."""
    store = EventStore.from_settings()
    before = len(await store.get_events(RUN))
    (entry,) = await store.append(RUN, [store.draft("look", None)])
    return JSONResponse({"events": before, "stopping": entry.stopping})


async def foreign(request: Request) -> Response:
    """Forms and requests to the address given, as a page of another origin can send them."""
    target = request.query_params["target"]
    return HTMLResponse(f"""<title>foreign</title>
<form id="stop" method="post" action="{target}/runs/{RUN}/stop"></form>
<form id="publish" method="post" enctype="text/plain" action="{target}/runs/{RUN}/events">
  <input name='{{"type":"t","data":"' value='"}}'>
</form>
<script>
const stop = "{target}/runs/{RUN}/stop", events = "{target}/runs/{RUN}/events";
const sent = (url, more) => fetch(url, {{ method: "POST", credentials: "include", ...more }})
  .then((answer) => answer.status, (error) => error.name);
const json = {{ body: '{{"type":"t"}}', headers: {{ "content-type": "application/json" }} }};
window.tries = async () => [
  await sent(stop, {{ mode: "no-cors" }}),
  await sent(stop, {{}}),
  await sent(events, {{ mode: "no-cors", body: json.body }}),
  await sent(events, json),
  await sent(stop, {{ headers: {{ authorization: "Bearer x" }} }}),
];
</script>""")


app = Starlette(
    routes=[
        Route("/login", login),
        Route("/state", state),
        Route("/foreign", foreign),
        Mount("/streams", EventStreamApp()),
    ]
)
app.add_middleware(SessionMiddleware)
