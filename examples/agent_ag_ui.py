"""An agent for clients that speak AG-UI, such as CopilotKit: its run outlives the request.

    pip install holdfast uvicorn
    python examples/agent_ag_ui.py

    const agent = new HttpAgent({ url: "http://127.0.0.1:8000/agent" });

Who sends the same runId again is told the run from its first event on, and then what comes.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import holdfast
from holdfast.agents.ag_ui import AGUIResponse

SECONDS_PER_WORD = float(os.environ.get("SECONDS_PER_WORD", "0.2"))


async def agent(question: str) -> AsyncIterator[tuple[str, Any]]:
    """Stands for a model: any source of a run will do, such as ``langchain_events(…)``."""
    yield "node_started", {"node": "answer"}
    yield "thinking", {"text": f"They ask: {question}", "message": "m1"}
    call = {"call": "c1", "tool": "look_up", "message": "m1"}
    yield "tool_call", {**call, "arguments": {"word": "holdfast"}}
    await asyncio.sleep(SECONDS_PER_WORD)
    yield "tool_result", {**call, "output": {"found": "what keeps kelp on its rock"}}
    for word in ["A", "holdfast", "is", "what", "keeps", "kelp", "on", "its", "rock."]:
        await asyncio.sleep(SECONDS_PER_WORD)
        yield "token", {"text": word + " ", "message": "m2"}
    yield "node_output", {"node": "answer", "output": "done"}


async def run(request: Request) -> Response:
    asked = await request.json()  # a RunAgentInput
    question = next((each["content"] for each in reversed(asked["messages"])), "")
    try:
        return AGUIResponse(asked["runId"], agent(question), thread_id=asked["threadId"])
    except KeyError as missing:
        return JSONResponse({"error": f"{missing} is missing"}, 422)


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    yield
    await holdfast.aclose()


app = Starlette(routes=[Route("/agent", run, methods=["POST"])], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
