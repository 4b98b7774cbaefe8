"""An app that tells Prometheus how it is: sessions and a run, and their metrics beside them.

    pip install "holdfast[prometheus]" uvicorn
    python examples/metrics.py

Then curl -X POST http://127.0.0.1:8000/runs/first and look at http://127.0.0.1:8000/metrics (PORT
changes it). docs/production/observability.md says what each metric means, and what to alert on.
"""

import os

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from holdfast import EventStreamApp, RunPublisher, SessionMiddleware, get_session, stream_token
from holdfast.metrics import MetricsApp


async def login(request: Request) -> Response:
    request.session["user_id"] = request.path_params["user"]
    return Response(status_code=204)


async def logout(request: Request) -> Response:
    get_session(request).invalidate()
    return Response(status_code=204)


async def start(request: Request) -> Response:
    run_id = request.path_params["run"]
    async with RunPublisher(run_id) as run:
        for step in range(3):
            await run.emit("step", {"step": step})
    return JSONResponse(
        {"url": f"/streams/runs/{run_id}/events/stream?token={stream_token(run_id)}"}
    )


app = Starlette(
    routes=[
        Route("/login/{user}", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/runs/{run}", start, methods=["POST"]),
        Mount("/streams", EventStreamApp()),
        # Where the public does not come: it tells all there is to whoever asks.
        Route("/metrics", MetricsApp()),
    ],
    middleware=[Middleware(SessionMiddleware)],
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
