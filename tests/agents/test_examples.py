"""The examples of agents, each behind a real server; the clients of their formats beside them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.streams.clients import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Serve
    from tests.support.process import ServerProcess

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = {"HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more"}
QUICK = {**KEY, "SECONDS_PER_WORD": "0.01"}
# Slow enough that what is asked meanwhile is asked in time.
SLOW = {**KEY, "SECONDS_PER_WORD": "0.2"}


def browser(server: ServerProcess) -> httpx.AsyncClient:
    http = client()
    http.base_url = httpx.URL(server.url)
    return http


def data_of(text: str) -> Iterator[Any]:
    for line in text.split("\n"):
        if line.startswith("data: "):
            yield json.loads(line[6:]) if line[6:] != "[DONE]" else "[DONE]"


def events_of(text: str) -> list[tuple[str, Any]]:
    kinds = [line[7:] for line in text.split("\n") if line.startswith("event: ")]
    return list(zip(kinds, data_of(text), strict=True))


async def test_the_langgraph_example_resumes_and_stops(serve: Serve) -> None:
    server = serve(EXAMPLES / "agent_langgraph.py", env={**KEY, "SECONDS_PER_WORD": "0.1"})
    async with browser(server) as http:
        assert "EventSource" in (await http.get("/")).text
        first, second = await asyncio.gather(*[http.get("/answers/a?q=Kelp") for _ in range(2)])
        assert events_of(first.text) == events_of(second.text)
        kinds = [kind for kind, _ in events_of(first.text)]
        assert kinds.count("node_started") == kinds.count("node_output") == 2
        assert kinds.count("token") > 10
        assert kinds[-1] == "workflow_complete"
        async with browser(server) as stranger:
            assert (await stranger.get("/answers/a?q=Kelp")).status_code == 403
            assert (await stranger.post("/answers/a/stop")).status_code == 403
        assert (await http.post("/answers/b/stop")).status_code == 403
        slow = asyncio.create_task(http.get("/answers/c?q=Kelp"))
        async with asyncio.timeout(20):
            while (await http.post("/answers/c/stop")).status_code != 200:
                await asyncio.sleep(0.01)
        assert events_of((await slow).text)[-1][0] == "run_stopped"


async def test_the_openai_example_answers_from_both_interfaces(serve: Serve) -> None:
    model = serve("tests.agents.openai_server:app")
    env = {**KEY, "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{model.url}/v1", "MODEL": "fake"}
    server = serve(EXAMPLES / "agent_openai.py", env=env)
    async with browser(server) as http:
        for address in ("/chat/one?q=hello", "/responses/two?q=hello"):
            said = [await http.get(address) for _ in range(2)]
            events = events_of(said[0].text)
            assert events == events_of(said[1].text)
            text = "".join(data["text"] for kind, data in events if kind == "token")
            assert text == "It is sunny."
            assert dict(events)["model_finished"]["usage"]["total_tokens"] == 7
            async with browser(server) as stranger:
                assert (await stranger.get(address)).status_code == 403
        asked = (await http.get(f"{model.url}/counted")).json()["asked"]
    assert asked == ["fake", "fake"]


async def test_the_ag_ui_example_tells_a_run_again_and_goes_on(serve: Serve) -> None:
    from ag_ui.core import Event, RunAgentInput, UserMessage
    from pydantic import TypeAdapter

    server = serve(EXAMPLES / "agent_ag_ui.py", env=QUICK)
    message = UserMessage(id="u", content="What is kelp?")
    asked = RunAgentInput(thread_id="t", run_id="r", messages=[message])
    body = asked.model_dump(mode="json", by_alias=True)
    async with browser(server) as http:
        first, second = await asyncio.gather(*[http.post("/agent", json=body) for _ in range(2)])
        assert (await http.post("/agent", json={"messages": []})).status_code == 422
    frames = list(data_of(first.text))
    assert frames == list(data_of(second.text))
    assert frames[0] == {
        "type": "RUN_STARTED",
        "threadId": "t",
        "runId": "r",
        "protocolVersion": "1.0",
    }
    assert frames[-1] == {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}
    for frame in frames:
        TypeAdapter(Event).validate_python(frame)


async def test_the_ai_sdk_example_resumes_what_is_open(serve: Serve) -> None:
    server = serve(EXAMPLES / "agent_ai_sdk.py", env=SLOW)
    message = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "What is kelp?"}]}
    body = {"id": "chat", "messages": [message], "trigger": "submit-message"}
    async with browser(server) as http:
        assert (await http.get("/api/chat/chat/stream")).status_code == 204
        async with http.stream("POST", "/api/chat", json=body) as answer:
            assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
            resumed = await http.get("/api/chat/chat/stream")
            text = (await answer.aread()).decode()
        assert resumed.headers["x-vercel-ai-ui-message-stream"] == "v1"
        chunks = list(data_of(text))
        assert list(data_of(resumed.text)) == chunks
        assert chunks[0] == {"type": "start", "messageId": "chat:u"}
        assert chunks[-2:] == [{"type": "finish"}, "[DONE]"]
        assert (await http.get("/api/chat/chat/stream")).status_code == 204
        async with browser(server) as stranger:
            assert (await stranger.get("/api/chat/chat/stream")).status_code == 204


async def test_the_ai_sdk_example_answers_anew_when_it_is_asked_to(serve: Serve) -> None:
    server = serve(EXAMPLES / "agent_ai_sdk.py", env=QUICK)

    def asked(text: str, **more: str) -> dict[str, Any]:
        message = {"id": "u", "role": "user", "parts": [{"type": "text", "text": text}]}
        return {"id": "chat", "messages": [message], "trigger": "submit-message", **more}

    bodies = [
        asked("What is kelp?"),
        asked("What is kelp?"),  # sent twice: one answer
        asked("What is kelp?", trigger="regenerate-message"),
        asked("What is a rock?", messageId="u"),  # what the SDK sends for a changed question
    ]
    async with browser(server) as http:
        said = [list(data_of((await http.post("/api/chat", json=body)).text)) for body in bodies]
    first, again, anew, changed = [chunks[0]["messageId"] for chunks in said]
    assert first == again == "chat:u"
    assert len({first, anew, changed}) == 3
    assert "They ask: What is a rock?" in [chunk.get("delta") for chunk in said[3][:-1]]
