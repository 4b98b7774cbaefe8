"""LangChain and LangGraph as they are, with their own fake model, publish what they do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from langchain_core.callbacks import adispatch_custom_event
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from tests.agents.fakes import (
    CALL,
    QUESTION,
    agent_graph,
    broken,
    model,
    parallel_graph,
    until_cancelled,
    weather,
)
from tests.streams.clients import until

from holdfast import RunEnded, RunPublisher, SyncRunPublisher, request_stop, start_run
from holdfast.agents.langchain import (
    AsyncRunCallbackHandler,
    RunCallbackHandler,
    langchain_events,
    langchain_events_sync,
)
from holdfast.agents.langgraph_parts import Parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.agents.conftest import Log

    from holdfast import Settings
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

NO_TOKENS = ["node_started", "model_started", "tool_call", "model_finished", "node_output"]
AGENT = [
    *("node_started", "model_started", "tool_call_delta", "tool_call_delta", "tool_call"),
    *("model_finished", "node_output"),
    *("node_started", "tool_started", "tool_result", "node_output"),
    *("node_started", "model_started", "token", "token", "token", "model_finished"),
    *("node_output", "output"),
]
WHOLE = [kind for kind in AGENT if kind not in {"tool_call_delta", "token"}]
WHOLE.insert(WHOLE.index("model_finished", 5), "token")
"""The same where the model is not asked to stream."""


async def collected(events: Any) -> list[tuple[str, Any]]:
    return [event async for event in events]


def told(events: list[tuple[str, Any]], kind: str) -> list[Any]:
    return [data for each, data in events if each == kind]


# -- streams as sources


async def test_astream_events_say_what_each_node_model_and_tool_does() -> None:
    events = await collected(langchain_events(agent_graph().astream_events(QUESTION)))
    assert [kind for kind, _ in events] == AGENT
    assert [data["node"] for data in told(events, "node_started")] == ["agent", "tools", "agent"]
    starts, ends = told(events, "node_started"), told(events, "node_output")
    assert [data["id"] for data in starts] == [data["id"] for data in ends]
    (call,) = told(events, "tool_call")
    assert (call["call"], call["tool"], call["arguments"]) == ("call_1", "weather", CALL["args"])
    deltas = told(events, "tool_call_delta")
    assert "".join(data["text"] for data in deltas) == '{"city": "Bergen"}'
    assert {data["call"] for data in deltas} == {"call_1"}
    (result,) = told(events, "tool_result")
    assert (result["call"], result["output"]) == ("call_1", "Sunny in Bergen")
    tokens = told(events, "token")
    assert "".join(data["text"] for data in tokens) == "It is sunny. "
    assert {data["message"] for data in tokens} == {told(events, "model_finished")[1]["message"]}
    (whole,) = told(events, "output")
    assert [each["type"] for each in whole["output"]["messages"]] == ["human", "ai", "tool", "ai"]


async def test_a_graph_is_the_source_of_a_run(settings: Settings, log: Log) -> None:
    events = langchain_events(agent_graph().astream_events(QUESTION))
    run = await start_run("r", events, settings=settings)
    assert (await run.wait()).type == "workflow_complete"
    assert await log.types() == [*AGENT, "workflow_complete"]


async def test_a_graph_that_is_not_needed_does_not_run(settings: Settings, log: Log) -> None:
    ran = []

    def node(state: Any) -> Any:
        ran.append(1)
        return {"outputs": [1]}

    graph = parallel_graph(node)
    for _ in range(2):
        events = langchain_events(graph.astream_events({"outputs": []}))
        run = await start_run("r", events, settings=settings)
        await run.wait()
    assert ran == [1]
    assert (await log.types()).count("workflow_complete") == 1


UPDATES = ["node_output"] * 3
MESSAGES = [
    *("tool_call_delta", "tool_call_delta", "tool_call", "model_finished", "tool_result"),
    *("token", "token", "token", "model_finished"),
]
BOTH = [*MESSAGES[:4], "node_output", "tool_result", "node_output", *MESSAGES[5:], "node_output"]
TASKS = ["node_started", "node_output"] * 3
MODES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "updates": ({}, UPDATES),
    "updates, subgraphs": ({"subgraphs": True}, UPDATES),
    "messages": ({"stream_mode": "messages"}, MESSAGES),
    "messages, version 2": ({"stream_mode": "messages", "version": "v2"}, MESSAGES),
    "messages, subgraphs": ({"stream_mode": "messages", "subgraphs": True}, MESSAGES),
    "a list": ({"stream_mode": ["updates", "messages"]}, BOTH),
    "a list, subgraphs": ({"stream_mode": ["updates", "messages"], "subgraphs": True}, BOTH),
    "a list, version 2": ({"stream_mode": ["updates", "messages"], "version": "v2"}, BOTH),
    "tasks": ({"stream_mode": ["tasks"]}, TASKS),
    "values": ({"stream_mode": ["values"]}, ["state"] * 4),
}


@pytest.mark.parametrize(("options", "expected"), MODES.values(), ids=MODES.keys())
async def test_astream_in_each_shape(options: dict[str, Any], expected: list[str]) -> None:
    stream = agent_graph().astream(QUESTION, **options)
    mode = options.get("stream_mode", "updates")
    mode = mode if isinstance(mode, str) else "updates"
    said: Any = {} if mode == "messages" else {"stream_mode": mode}
    events = await collected(langchain_events(stream, **said))
    assert [kind for kind, _ in events] == expected
    if "messages" in str(options):
        assert told(events, "tool_call")[0]["arguments"] == CALL["args"]
        assert told(events, "tool_result")[0]["call"] == "call_1"


async def test_a_task_that_fails_is_told() -> None:
    def node(state: Any) -> Any:
        raise ValueError("no kelp")

    stream = parallel_graph(node).astream({"outputs": []}, stream_mode=["tasks"])
    events = await collected(langchain_events(_caught(stream)))
    assert [(kind, data["node"]) for kind, data in events] == [
        ("node_started", "node"),
        ("node_error", "node"),
    ]
    assert "no kelp" in events[1][1]["error"]["message"]


async def test_values_alone_are_states_where_that_is_said() -> None:
    stream = agent_graph().astream(QUESTION, stream_mode="values")
    events = await collected(langchain_events(stream, stream_mode="values"))
    assert [kind for kind, _ in events] == ["state"] * 4


def test_stream_without_a_loop_is_published_by_a_sync_publisher(
    settings: Settings,
) -> None:
    seen = []
    with SyncRunPublisher("r", settings=settings) as run:
        stream = agent_graph().stream(QUESTION, stream_mode=["messages", "updates"])
        for kind, data in langchain_events_sync(stream):
            seen.append(run.emit(kind, data).type)
    assert seen == BOTH


async def test_a_message_that_is_whole_is_told_whole() -> None:
    def node(state: Any) -> Any:
        return {"outputs": [AIMessage("Done.", id="m1")]}

    stream = parallel_graph(node).astream({"outputs": []}, stream_mode="messages")
    events = await collected(langchain_events(stream))
    assert events == [
        ("token", {"text": "Done.", "message": "m1", "node": "node"}),
        ("model_finished", {"message": "m1", "node": "node"}),
    ]


async def test_what_a_node_writes_of_its_own() -> None:
    from langgraph.config import get_stream_writer

    async def node(state: Any) -> Any:
        get_stream_writer()({"done": 1})
        await adispatch_custom_event("progress", {"done": 2})
        return {"outputs": [1]}

    graph = parallel_graph(node)
    stream = graph.astream({"outputs": []}, stream_mode=["custom"])
    assert await collected(langchain_events(stream)) == [("custom", {"data": {"done": 1}})]
    events = await collected(langchain_events(graph.astream_events({"outputs": []})))
    assert told(events, "custom") == [{"name": "progress", "data": {"done": 2}}]


def test_pieces_whose_end_has_another_id_belong_together() -> None:
    here, there = {"langgraph_checkpoint_ns": "a"}, {"langgraph_checkpoint_ns": "b"}
    parts = Parts()
    said: list[Any] = []
    for text, key, last, metadata in [
        ("x", "m1", None, here),
        ("y", "m2", None, there),
        ("", "other", "last", here),
    ]:
        chunk = AIMessageChunk(content=text, id=key, chunk_position=last)
        said += parts.feed((chunk, metadata))
    assert [(kind, data["message"]) for kind, data in said] == [
        ("token", "m1"),
        ("token", "m2"),
        ("model_finished", "m1"),
    ]
    assert [data["message"] for _, data in parts.rest()] == ["m2"]


async def test_a_node_that_is_done_ends_no_message_of_another() -> None:
    done = asyncio.Event()

    async def quick(state: Any) -> Any:
        return {"outputs": [1]}

    async def slow(state: Any) -> Any:
        answer = ""
        async for chunk in model(AIMessage("a b c", id="m1")).astream("?"):
            await done.wait()
            answer += str(chunk.content)
        return {"outputs": [answer]}

    stream = parallel_graph(quick, slow).astream(
        {"outputs": []}, stream_mode=["messages", "updates"]
    )
    events = []
    async for kind, data in langchain_events(stream):
        events.append((kind, data["node"]))
        if data["node"] == "quick":
            done.set()
    slowly = [kind for kind, node in events if node == "slow"]
    assert slowly == ["token", "token", "token", "model_finished", "node_output"]


@tool
def hand_over(city: str) -> Any:
    """Answer by a change of the state, as what hands over to another agent does."""
    earlier = ToolMessage("earlier", tool_call_id="call_0")
    return Command(update={"messages": [earlier, ToolMessage("Done.", tool_call_id="call_1")]})


def by_hand(state: Any) -> Any:
    """A node that asks its tools by itself."""
    answer = ToolMessage(weather.invoke({"city": "Bergen"}), tool_call_id="call_1")
    return {"messages": [*state["messages"], answer]}


HANDED = {**CALL, "name": "hand_over"}
UNKNOWN = {**CALL, "name": "nobody"}
ANSWERED: dict[str, tuple[Any, Any, tuple[str, Any]]] = {
    "a tool": (CALL, ToolNode([weather]), ("tool_result", "Sunny in Bergen")),
    "a command": (HANDED, ToolNode([hand_over]), ("tool_result", "Done.")),
    "a node": (CALL, by_hand, ("tool_result", "Sunny in Bergen")),
    "nobody": (UNKNOWN, ToolNode([weather]), ("tool_error", None)),
}


@pytest.mark.parametrize("how", ["handler", "astream_events"])
@pytest.mark.parametrize(("call", "tools", "expected"), ANSWERED.values(), ids=ANSWERED.keys())
async def test_a_call_is_answered_once_whoever_answers(
    how: str, call: Any, tools: Any, expected: tuple[str, Any], settings: Settings, log: Log
) -> None:
    graph = agent_graph(AIMessage("", tool_calls=[call]), "Done.", tools=tools)
    async with RunPublisher("r", settings=settings) as run:
        if how == "handler":
            await graph.ainvoke(QUESTION, {"callbacks": [AsyncRunCallbackHandler(run)]})
        else:
            async for kind, data in langchain_events(graph.astream_events(QUESTION)):
                await run.emit(kind, data)
    answers = [
        (event.type, event.data.get("output"))
        for event in await log.events()
        if event.type in {"tool_result", "tool_error"}
        # A tool that a node has asked by itself does not know for which call.
        and (event.data["call"] == "call_1" or tools is not by_hand)
    ]
    assert answers == [expected]


async def test_what_was_answered_before_the_run_is_not_told_with_it(
    settings: Settings, log: Log
) -> None:
    graph = agent_graph(AIMessage("", tool_calls=[CALL]), "Done.", tools=by_hand)
    earlier = AIMessage("", tool_calls=[{**CALL, "id": "call_0"}])
    answer = ToolMessage("Rain in Bergen", tool_call_id="call_0")
    async with RunPublisher("r", settings=settings) as run:
        messages = {"messages": [earlier, answer, *QUESTION["messages"]]}
        await graph.ainvoke(messages, {"callbacks": [AsyncRunCallbackHandler(run)]})
    told = [event.data["call"] for event in await log.events() if event.type == "tool_result"]
    assert "call_1" in told
    assert "call_0" not in told


async def test_runs_at_once_that_share_a_handler_answer_their_own_calls(
    settings: Settings, log: Log
) -> None:
    answered, asked = asyncio.Event(), asyncio.Event()

    @tool
    async def wait(city: str) -> str:
        """Tell nothing."""
        return city

    async def first(state: Any) -> Any:
        found = await wait.ainvoke({**CALL, "name": "wait", "type": "tool_call"})
        answered.set()
        await asked.wait()  # the other run has asked for the same before this node ends
        return {"messages": [found]}

    async def second(state: Any) -> Any:
        asked.set()
        await asyncio.wait([earlier])
        return {"messages": [ToolMessage("Done.", tool_call_id="call_1")]}

    def graph(tools: Any) -> Any:
        return agent_graph(AIMessage("", tool_calls=[CALL]), "Done.", tools=tools)

    async with asyncio.timeout(30), RunPublisher("r", settings=settings) as run:
        config: Any = {"callbacks": [AsyncRunCallbackHandler(run)]}
        earlier = asyncio.create_task(graph(first).ainvoke(QUESTION, config))
        await answered.wait()
        await graph(second).ainvoke(QUESTION, config)
    events = [(event.type, event.data) for event in await log.events()]
    assert [data["output"] for data in told(events, "tool_result")] == ["Bergen", "Done."]


async def test_the_nodes_of_the_library_itself_are_not_shown() -> None:
    class Started(TypedDict, total=False):
        done: bool

    graph: Any = StateGraph(Started).add_node("work", lambda _: {"done": True})
    graph.add_conditional_edges(START, lambda _: "work", ["work"])
    events = await collected(langchain_events(graph.compile().astream_events({})))
    nodes = [data["node"] for kind, data in events if kind.startswith("node_")]
    assert nodes == ["work", "work"]


async def test_what_is_written_may_have_any_shape() -> None:
    written: list[Any] = [("kelp", 1), (1, 2, 3), ["updates", 1]]

    async def stream() -> AsyncIterator[Any]:
        for each in written:
            yield each

    events = await collected(langchain_events(stream(), stream_mode="custom"))
    assert events == [("custom", {"data": [*each]}) for each in written]


@pytest.mark.parametrize(
    "options",
    [{"stream_mode": "values"}, {"stream_mode": ["values"]}, {"version": "v2"}],
    ids=["alone", "a list", "version 2"],
)
async def test_the_state_of_a_graph_within_says_its_node(options: dict[str, Any]) -> None:
    graph: Any = StateGraph(MessagesState).add_node("inner", agent_graph("Done."))
    options = {"stream_mode": ["values"], **options, "subgraphs": True}
    stream = graph.add_edge(START, "inner").compile().astream(QUESTION, **options)
    events = await collected(langchain_events(stream, stream_mode="values"))
    nodes = [data.get("node") for _, data in events]
    assert (nodes[0], nodes[-1]) == (None, None)
    assert {*nodes[1:-1]} == {"inner"}


# -- handlers


async def test_the_handler_of_a_loop_publishes_in_order(settings: Settings, log: Log) -> None:
    async with RunPublisher("r", settings=settings) as run:
        config = {"callbacks": [AsyncRunCallbackHandler(run)]}
        await agent_graph().ainvoke(QUESTION, config)
    assert await log.types() == [*WHOLE, "workflow_complete"]
    events = await log.events()
    started = next(event for event in events if event.type == "tool_started")
    assert (started.data["call"], started.data["arguments"]) == ("call_1", CALL["args"])


def test_the_handler_without_a_loop_publishes_in_order(settings: Settings, log: Log) -> None:
    with SyncRunPublisher("r", settings=settings) as run:
        agent_graph().invoke(QUESTION, {"callbacks": [RunCallbackHandler(run)]})
    assert asyncio.run(log.types()) == [*WHOLE, "workflow_complete"]


async def test_the_handler_without_a_loop_serves_a_loop_from_threads(
    settings: Settings, log: Log
) -> None:
    run = SyncRunPublisher("r", settings=settings)
    await agent_graph().ainvoke(QUESTION, {"callbacks": [RunCallbackHandler(run)]})
    assert await log.types() == WHOLE


async def test_streaming_says_each_token_once(settings: Settings, log: Log) -> None:
    async with RunPublisher("r", settings=settings) as run:
        config: Any = {"callbacks": [AsyncRunCallbackHandler(run)]}
        async for _ in model("It is sunny.").astream("?", config):
            pass
    events = [(event.type, event.data) for event in await log.events()]
    assert "".join(data["text"] for data in told(events, "token")) == "It is sunny. "
    assert [kind for kind, _ in events][-2:] == ["model_finished", "workflow_complete"]


async def test_a_chain_without_a_graph_says_its_output(settings: Settings, log: Log) -> None:
    chain = ChatPromptTemplate.from_template("{x}") | model("It is sunny.") | StrOutputParser()
    events = await collected(langchain_events(chain.astream_events({"x": "?"})))
    assert [kind for kind, _ in events] == [
        *("model_started", "token", "token", "token", "model_finished", "output")
    ]
    assert told(events, "output")[0]["output"] == "It is sunny. "


async def test_a_model_of_text_alone(settings: Settings, log: Log) -> None:
    async with RunPublisher("r", settings=settings) as run:
        config: Any = {"callbacks": [AsyncRunCallbackHandler(run)]}
        await FakeListLLM(responses=["Hello."]).ainvoke("?", config)
    events = [(event.type, event.data) for event in await log.events()]
    assert [data["text"] for data in told(events, "token")] == ["Hello."]
    stream = FakeListLLM(responses=["Hello."]).astream_events("?")
    events = await collected(langchain_events(stream))
    assert "".join(data["text"] for data in told(events, "token")) == "Hello."


async def test_what_a_retriever_found() -> None:
    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
            return [Document("kelp", id="d1")]

    events = await collected(langchain_events(Shelf().astream_events("?")))
    ((_, data),) = events
    assert data["name"] == "Shelf"
    assert data["documents"][0]["page_content"] == "kelp"


async def test_the_handler_hears_of_retrievers_and_of_what_a_chain_says(
    settings: Settings, log: Log
) -> None:
    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
            if query == "?":
                return [Document("kelp", id="d1")]
            raise ValueError("no such shelf")

    async def chain(query: str) -> int:
        await adispatch_custom_event("progress", {"done": 1})
        return len(await Shelf().ainvoke(query))

    async with RunPublisher("r", settings=settings) as run:
        config: Any = {"callbacks": [AsyncRunCallbackHandler(run)]}
        assert await RunnableLambda(chain).ainvoke("?", config) == 1
        with pytest.raises(ValueError, match="no such shelf"):
            await RunnableLambda(chain).ainvoke("!", config)
    types = ["custom", "retrieved", "output", "custom", "workflow_complete"]
    assert await log.types() == types


async def test_nodes_that_run_at_once_are_told_apart(settings: Settings, log: Log) -> None:
    both = asyncio.Barrier(2)

    async def left(state: Any) -> Any:
        await both.wait()
        return {"outputs": [await model("l l l").ainvoke("?")]}

    async def right(state: Any) -> Any:
        await both.wait()
        return {"outputs": [await model("r r r").ainvoke("?")]}

    graph = parallel_graph(left, right)
    events = await collected(langchain_events(graph.astream_events({"outputs": []})))
    kinds = [kind for kind, _ in events]
    assert kinds[:2] == ["node_started", "node_started"]
    for node in ("left", "right"):
        mine = [(kind, data) for kind, data in events if data.get("node") == node]
        assert [kind for kind, _ in mine] == [
            *("node_started", "model_started", "token", "token", "token"),
            *("model_finished", "node_output"),
        ]
        assert "".join(data["text"] for data in told(mine, "token")) == f"{node[0]} " * 3


async def test_a_model_that_is_not_to_be_shown_is_not(settings: Settings, log: Log) -> None:
    async def node(state: Any) -> Any:
        hidden = model("secret plan").with_config(tags=["nostream"])
        return {"outputs": [str((await hidden.ainvoke("?")).content)[:1]]}

    events = await collected(langchain_events(parallel_graph(node).astream_events({"outputs": []})))
    assert [kind for kind, _ in events] == ["node_started", "node_output", "output"]


# -- what goes wrong


async def test_an_error_is_told_of_the_node_and_ends_the_run(settings: Settings, log: Log) -> None:
    def node(state: Any) -> Any:
        raise ValueError("no kelp")

    async def publish() -> None:
        async with RunPublisher("r", settings=settings) as run:
            config = {"callbacks": [AsyncRunCallbackHandler(run)]}
            await parallel_graph(node).ainvoke({"outputs": []}, config)

    with pytest.raises(ValueError, match="no kelp"):
        await publish()
    events = await log.events()
    assert [event.type for event in events] == ["node_started", "node_error", "workflow_error"]
    assert events[1].data["error"] == {"type": "ValueError", "message": "no kelp"}


async def test_errors_of_models_and_tools_are_told(settings: Settings, log: Log) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("unreachable")

    async with RunPublisher("r", settings=settings) as run:
        config: Any = {"callbacks": [AsyncRunCallbackHandler(run)]}
        empty = model()
        with pytest.raises(RuntimeError):
            await empty.ainvoke("?", config)
        with pytest.raises(ValueError, match="no weather"):
            await broken.ainvoke({"city": "Oslo"}, config)
        await (RunnableLambda(fail).with_fallbacks([RunnableLambda(str)])).ainvoke(1, config)
    types = await log.types()
    assert types[:4] == ["model_started", "model_error", "tool_started", "tool_error"]
    assert types[-1] == "workflow_complete"
    assert (await log.events())[3].data["error"]["message"] == "no weather in Oslo"
    events = await collected(langchain_events(_caught(broken.astream_events({"city": "Oslo"}))))
    assert [kind for kind, _ in events] == ["tool_started", "tool_error"]


async def _caught(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
    with contextlib.suppress(ValueError):
        async for each in stream:
            yield each


async def test_the_error_of_a_graph_ends_a_run_that_it_is_the_source_of(
    settings: Settings, log: Log
) -> None:
    def node(state: Any) -> Any:
        raise ValueError("no kelp")

    stream = parallel_graph(node).astream_events({"outputs": []})
    run = await start_run("r", langchain_events(stream), settings=settings)
    end = await run.wait()
    assert end.type == "workflow_error"
    assert end.data["error"] == {"type": "ValueError", "message": "no kelp"}


async def test_a_stop_cancels_the_graph(settings: Settings, log: Log) -> None:
    cancelled = []

    async def node(state: Any) -> Any:
        try:
            await until_cancelled()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    stream = parallel_graph(node).astream_events({"outputs": []})
    run = await start_run("r", langchain_events(stream), settings=settings)
    while "node_started" not in await log.types():
        await asyncio.sleep(0.01)
    await request_stop("r", settings=settings)
    assert (await run.wait()).type == "run_stopped"
    await until(lambda: cancelled)
    assert await log.types() == ["node_started", "run_stopped"]


async def test_a_stop_leaves_a_block_with_a_handler(settings: Settings, log: Log) -> None:
    async def node(state: Any) -> Any:
        await request_stop("r", settings=settings)
        await until_cancelled()

    async with RunPublisher("r", settings=settings) as run:
        config = {"callbacks": [AsyncRunCallbackHandler(run)]}
        await parallel_graph(node).ainvoke({"outputs": []}, config)
    assert await log.types() == ["node_started", "run_stopped"]


def test_a_stop_leaves_a_chain_without_a_loop(settings: Settings, log: Log) -> None:
    with SyncRunPublisher("r", settings=settings) as run:
        handler = RunCallbackHandler(run)

        def node(state: Any) -> Any:
            stopping = threading.Thread(
                target=lambda: asyncio.run(request_stop("r", settings=settings))
            )
            stopping.start()
            stopping.join()
            assert run.wait_stop(20)
            return {"outputs": [weather.invoke({"city": "Oslo"}, {"callbacks": [handler]})]}

        parallel_graph(node).invoke({"outputs": []}, {"callbacks": [handler]})
    assert asyncio.run(log.types()) == ["node_started", "run_stopped"]


async def test_a_run_that_has_ended_ends_the_chain(settings: Settings) -> None:
    run = RunPublisher("r", settings=settings)
    await run.workflow_complete()
    with pytest.raises(RunEnded):
        await model("Hello.").ainvoke("?", {"callbacks": [AsyncRunCallbackHandler(run)]})


async def test_a_huge_output_does_not_end_the_run(settings: Settings, log: Log) -> None:
    def node(state: Any) -> Any:
        return {"outputs": ["x" * 2_000_000]}

    stream = parallel_graph(node).astream_events({"outputs": []})
    run = await start_run("r", langchain_events(stream), settings=settings)
    assert (await run.wait()).type == "workflow_complete"
    outputs = [event.data["output"] for event in await log.events() if "output" in event.data]
    assert outputs[:2] == [{"too_large": 2_000_016}] * 2


async def test_a_value_that_is_no_json_does_not_end_the_run(settings: Settings, log: Log) -> None:
    def node(state: Any) -> Any:
        return {"outputs": [threading.Lock(), b"x", AIMessage("m", id="1")]}

    async with RunPublisher("r", settings=settings) as run:
        config = {"callbacks": [AsyncRunCallbackHandler(run)]}
        await parallel_graph(node).ainvoke({"outputs": []}, config)
    found = (await log.events())[1].data["output"]["outputs"]
    assert found[:2] == [{"not_json": "lock"}, {"not_json": "bytes"}]
    assert found[2]["content"] == "m"


class Waiting(TypedDict, total=False):
    answer: str


def waiting_graph() -> Any:
    def ask(state: Waiting) -> Any:
        return {"answer": interrupt({"question": "Go on?"})}

    inner = StateGraph(Waiting).add_node("ask", ask).add_edge(START, "ask").compile()
    graph = StateGraph(Waiting).add_node("inner", inner).add_edge(START, "inner")
    return graph.compile(checkpointer=InMemorySaver())


WAYS: dict[str, Any] = {
    "handler": None,
    "astream_events": {},
    "astream": {},
    "astream, subgraphs": {"subgraphs": True},
    "astream, tasks": {"stream_mode": ["tasks"]},
    "astream, values": {"stream_mode": ["values"]},
    "astream, values, version 2": {"stream_mode": ["values"], "version": "v2"},
    "astream, all": {"stream_mode": ["values", "tasks", "updates"], "subgraphs": True},
    "astream, version 2": {"stream_mode": ["updates"], "subgraphs": True, "version": "v2"},
}


@pytest.mark.parametrize("how", WAYS)
async def test_a_graph_that_waits_for_somebody_says_so_once(
    how: str, settings: Settings, log: Log
) -> None:
    config: Any = {"configurable": {"thread_id": "t"}}
    async with RunPublisher("r", settings=settings) as run:
        if how == "handler":
            config["callbacks"] = [AsyncRunCallbackHandler(run)]
            await waiting_graph().ainvoke({}, config)
        else:
            stream = getattr(waiting_graph(), how.partition(",")[0])({}, config, **WAYS[how])
            async for kind, data in langchain_events(stream):
                await run.emit(kind, data)
    events = [(event.type, event.data) for event in await log.events()]
    (asked,) = told(events, "interrupt")
    assert [each["value"] for each in asked["interrupts"]] == [{"question": "Go on?"}]
    assert asked["interrupts"][0]["id"]
    assert not told(events, "node_error")
    assert not told(events, "node_output")
    assert all("__interrupt__" not in data["state"] for data in told(events, "state"))


async def test_an_outage_in_the_middle_loses_and_doubles_nothing(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    from tests.agents.conftest import Log

    from holdfast import Settings

    settings = Settings(redis_url=fresh_redis.url, redis_timeout=1, key_prefix=key_prefix)
    log = Log(settings)

    async def away(state: Any) -> Any:
        fresh_redis.freeze()
        return {"outputs": [str((await model("while it is away").ainvoke("?")).content)]}

    stream = parallel_graph(away).astream_events({"outputs": []})
    run = await start_run("r", langchain_events(stream), settings=settings)
    here = RunPublisher("other", settings=settings)
    await until(lambda: not log.store.available, 20)
    await here.emit("seen", {})
    fresh_redis.thaw()
    assert (await asyncio.wait_for(run.wait(), 30)).type == "workflow_complete"
    await until(lambda: log.store.available, 20)
    assert await log.types() == [
        *("node_started", "model_started", "token", "token", "token", "token"),
        *("model_finished", "node_output", "output", "workflow_complete"),
    ]
