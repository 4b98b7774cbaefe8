"""A chat for the AI SDK's ``useChat({ resume: true })``: a page that is loaded again goes on.

    pip install holdfast uvicorn
    python examples/agent_ai_sdk.py

It serves the two addresses of the SDK's default transport: ``POST /api/chat`` begins an answer, and
``GET /api/chat/{id}/stream`` resumes the one that is being given, or says that there is none.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import holdfast
from holdfast import SessionMiddleware
from holdfast.agents.ai_sdk import UIMessageStreamResponse

SECONDS_PER_WORD = float(os.environ.get("SECONDS_PER_WORD", "0.2"))


async def agent(question: str) -> AsyncIterator[tuple[str, Any]]:
    """Stands for a model: any source of a run will do, such as ``openai_events(…)``."""
    yield "thinking", {"text": f"They ask: {question}", "message": "m1"}
    call = {"call": "c1", "tool": "look_up", "message": "m1"}
    yield "tool_call", {**call, "arguments": {"word": "holdfast"}}
    await asyncio.sleep(SECONDS_PER_WORD)
    yield "tool_result", {**call, "output": {"found": "what keeps kelp on its rock"}}
    for word in ["A", "holdfast", "is", "what", "keeps", "kelp", "on", "its", "rock."]:
        await asyncio.sleep(SECONDS_PER_WORD)
        yield "token", {"text": word + " ", "message": "m2"}


async def chat(request: Request) -> Response:
    asked = await request.json()
    question = asked["messages"][-1]
    text = "".join(part.get("text", "") for part in question["parts"])
    # One run for each answer. The session keeps which one this chat is at, and owns it.
    run_id = f"{asked['id']}:{question['id']}"
    if asked.get("trigger") == "regenerate-message" or asked.get("messageId"):
        run_id += f":{uuid4().hex}"  # the same question again, or changed: another answer
    request.session.setdefault("chats", {})[asked["id"]] = run_id
    return UIMessageStreamResponse(run_id, agent(text))


async def resume(request: Request) -> Response:
    run_id = request.session.get("chats", {}).get(request.path_params["chat"])
    return UIMessageStreamResponse(run_id) if run_id else Response(status_code=204)


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    yield
    await holdfast.aclose()


app = Starlette(
    routes=[
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/chat/{chat}/stream", resume),
    ],
    middleware=[Middleware(SessionMiddleware)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
