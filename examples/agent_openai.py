"""An OpenAI-style stream that survives a refresh and a lost network: chat completions, responses.

    pip install holdfast openai uvicorn
    OPENAI_API_KEY=… python examples/agent_openai.py

    curl -N -c jar -b jar 'http://127.0.0.1:8000/chat/first?q=What+is+kelp' # again: the same
    curl -N -c jar -b jar 'http://127.0.0.1:8000/responses/second?q=What+is+kelp'

Who asks first owns the answer, by the cookie: nobody else who knows the address reads it.
OPENAI_BASE_URL names another server with the same interface, MODEL another model.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import uvicorn
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import holdfast
from holdfast import RunResponse, SessionMiddleware
from holdfast.agents.openai import openai_events

MODEL = os.environ.get("MODEL", "gpt-5-mini")


@cache
def client() -> AsyncOpenAI:
    return AsyncOpenAI()  # one for all requests; made at the first


async def chat(request: Request) -> Response:
    request.session.setdefault("visits", 0)  # somebody to own the run: an empty session is nobody
    # Not awaited: the model is asked where this request begins the run, and not by a later one.
    stream = client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": request.query_params["q"]}],
        stream=True,
        stream_options={"include_usage": True},
    )
    return RunResponse(request.path_params["run_id"], openai_events(stream))


async def responses(request: Request) -> Response:
    request.session.setdefault("visits", 0)
    question = request.query_params["q"]
    stream = client().responses.create(model=MODEL, input=question, stream=True)
    return RunResponse(request.path_params["run_id"], openai_events(stream))


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    yield
    await holdfast.aclose()


app = Starlette(
    routes=[Route("/chat/{run_id}", chat), Route("/responses/{run_id}", responses)],
    middleware=[Middleware(SessionMiddleware)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
