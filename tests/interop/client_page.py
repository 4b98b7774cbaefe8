"""The app that the browser's client is tested on: a page that follows a run and shows what came.

The page is told by the test what to do; `window.seen` is what it was handed.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import minify
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from tests.streams.served import emit, start, state

from holdfast import EventStore, EventStreamApp, SessionMiddleware, get_session, stream_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

PAGE = """<!doctype html><meta charset="utf-8"><title>client</title>
<script type="module">
  import { follow } from "SCRIPT";
  window.seen = {
    events: [], gaps: [], resets: [], states: [], asked: [], ends: 0, run_ends: [],
  };
  window.open_run = (address, options = {}) => {
    window.run = follow(address, {
      silence: 3000,
      maxDelay: 1000,
      onEvent: (event) => seen.events.push(event),
      onGap: (gap) => seen.gaps.push(gap),
      onReset: (reset) => { seen.resets.push(reset); seen.events = []; },
      onEnd: () => { seen.ends += 1; },
      onRunEnd: (end) => seen.run_ends.push([end.run_id, end.code ?? end.kind]),
      onState: (state, refusal) => seen.states.push(refusal ? [state, refusal] : state),
      ...options,
    });
  };
  window.numbers = () => seen.events.filter((e) => e.type === "t").map((e) => e.data.n);
  window.numbers_of = (run) =>
    seen.events.filter((e) => e.type === "t" && e.run_id === run).map((e) => e.data.n);
  window.browsers_own = (address) => {
    window.source = new EventSource(address);
    source.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.kind === "event") seen.events.push(frame);
      if (frame.kind === "end") seen.run_ends.push([frame.run_id, "end"]);
    };
  };
  window.token_of = (run, ttl, more = "") => async (request) => {
    seen.asked.push(request.refused);
    return (await fetch(`/token/${run}?ttl=${ttl}${more}`)).text();
  };
  window.keeping = {
    remember: () => seen.events,
    onRestore: (events) => { seen.events = events; seen.restored = events.length; },
  };
  window.ready = true;
</script>"""

FOREIGN = 'id: 7\r\ndata: one\r\ndata: two\r\n\r\nevent: t\r\ndata: {"n":1}\r\n\r\n'
FOREIGN_END = "event: workflow_complete\r\nid: 9\r\ndata: null\r\n\r\n"


async def page(request: Request) -> Response:
    script = "/small.js" if "small" in request.query_params else "/streams/holdfast.js"
    return HTMLResponse(PAGE.replace("SCRIPT", script))


async def small(request: Request) -> Response:
    source = (resources.files("holdfast.streams") / "static" / "holdfast.js").read_text()
    return Response(minify.string("text/javascript", source), media_type="text/javascript")


async def token(request: Request) -> Response:
    query = request.query_params
    made = stream_token(
        request.path_params["run"],
        float(query["ttl"]),
        actions=("read", "stop"),
        prefix="prefix" in query,
    )
    return Response(made, headers={"cache-control": "no-store"})


async def delete(request: Request) -> Response:
    return JSONResponse(await EventStore.from_settings().delete(request.path_params["run"]))


async def foreign(request: Request) -> Response:
    """An event stream that is none of ours: other line breaks, and cut up at every byte."""
    text = FOREIGN if "last-event-id" not in request.headers else FOREIGN_END

    async def pieces() -> AsyncIterator[str]:
        for letter in text:
            yield letter

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def troubled(request: Request) -> Response:
    """A server in trouble at first, which says when to come back; then the foreign stream."""
    tried = request.app.state.tried = getattr(request.app.state, "tried", 0) + 1
    if tried > 2:
        return await foreign(request)
    return Response(status_code=(503, 429)[tried - 1], headers={"retry-after": "1"})


async def visit(request: Request) -> Response:
    request.session["seen"] = True
    if "anew" in request.query_params:
        get_session(request).regenerate_id()
    return Response()


async def wrong(request: Request) -> Response:
    return HTMLResponse("<p>Please log in</p>")


routes = [
    Route("/page", page),
    Route("/small.js", small),
    Route("/token/{run}", token),
    Route("/delete/{run}", delete, methods=["POST"]),
    Route("/emit/{run:path}", emit, methods=["POST"]),
    Route("/start/{run:path}", start, methods=["POST"]),
    Route("/state", state),
    Route("/foreign", foreign),
    Route("/troubled", troubled),
    Route("/wrong", wrong),
    Route("/visit", visit),
    Mount("/streams", EventStreamApp()),
]
app = Starlette(routes=routes)
with_sessions = SessionMiddleware(app)
