"""A LangGraph agent whose answer survives a refresh and a lost network, and can be stopped.

    pip install holdfast langgraph uvicorn
    python examples/agent_langgraph.py

Then open http://127.0.0.1:8000 (PORT changes it), ask, and load the page again while it answers.
The model is a fake of LangChain's own: put yours in its place.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import uvicorn
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import holdfast
from holdfast import RunResponse, SessionMiddleware, request_stop, session_access
from holdfast.agents.langchain import langchain_events

SECONDS_PER_WORD = float(os.environ.get("SECONDS_PER_WORD", "0.2"))


class State(TypedDict, total=False):
    question: str
    notes: str
    answer: str


async def research(state: State) -> State:
    await asyncio.sleep(SECONDS_PER_WORD)
    return {"notes": "Kelp has no roots: a holdfast keeps it on its rock."}


async def write(state: State) -> State:
    model = GenericFakeChatModel(messages=iter([AIMessage(f"You asked. {state['notes']}")]))
    text = ""
    async for chunk in model.astream(state["question"]):
        await asyncio.sleep(SECONDS_PER_WORD / 2)
        text += str(chunk.content)
    return {"answer": text}


builder = StateGraph(State)
builder.add_node("research", research)
builder.add_node("write", write)
builder.add_edge(START, "research")
builder.add_edge("research", "write")
builder.add_edge("write", END)
graph = builder.compile()


async def answer(request: Request) -> Response:
    # The first request for an id runs the graph; each later one goes on where it was.
    question: State = {"question": request.query_params.get("q", "")}
    events = graph.astream_events(question, version="v2")
    return RunResponse(request.path_params["run_id"], langchain_events(events))


async def stop(request: Request) -> Response:
    run_id = request.path_params["run_id"]
    if not await session_access(request, run_id, "stop"):
        return JSONResponse({"error": "not yours"}, 403)
    return JSONResponse({"stop": await request_stop(run_id)})


async def page(request: Request) -> Response:
    request.session.setdefault("visits", 0)  # now there is somebody to own a run
    return HTMLResponse(PAGE)


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    yield
    await holdfast.aclose()


PAGE = """<!doctype html><title>holdfast and LangGraph</title>
<form><input name="q" value="What is a holdfast?" size="40"> <button>Ask</button>
<button type="button" id="stop">Stop</button></form>
<p>Node: <b id="node"></b></p><p id="text"></p><p id="state"></p>
<script>
const at = (id) => document.getElementById(id);
let source;
function listen(run, question) {
  at("text").textContent = at("node").textContent = ""; at("state").textContent = "…";
  source?.close();
  source = new EventSource(`/answers/${run}?q=${encodeURIComponent(question)}`);
  const on = (type, f) => source.addEventListener(type, (e) => f(JSON.parse(e.data)));
  on("node_started", (e) => { at("node").textContent = e.node; });
  on("token", (e) => { at("text").textContent += e.text; });
  for (const end of ["workflow_complete", "workflow_error", "run_stopped", "run_lost"])
    on(end, () => { at("state").textContent = end; source.close(); });
}
document.forms[0].onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.run = `answer-${crypto.randomUUID()}`;  // an id is used once
  sessionStorage.question = event.target.q.value;
  listen(sessionStorage.run, sessionStorage.question);
};
at("stop").onclick = () => fetch(`/answers/${sessionStorage.run}/stop`, { method: "POST" });
if (sessionStorage.run) listen(sessionStorage.run, sessionStorage.question);
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
