"""A model and graphs that stand for an agent's: LangChain's own fake, which can also call tools."""

from __future__ import annotations

import asyncio
import json
import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUESTION = {"messages": [HumanMessage("How is the weather?")]}
CALL = {"name": "weather", "args": {"city": "Bergen"}, "id": "call_1"}


class FakeModel(GenericFakeChatModel):
    """LangChain's fake, whose calls of tools come in pieces as a real model's do."""

    def _stream(
        self, messages: list[BaseMessage], *args: Any, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        answer = next(self.messages)
        for piece in pieces_of(answer):
            chunk = ChatGenerationChunk(message=piece)
            if run_manager:
                run_manager.on_llm_new_token(str(piece.content), chunk=chunk)
            yield chunk


def pieces_of(answer: AIMessage | str) -> Iterator[AIMessageChunk]:
    if isinstance(answer, str):
        answer = AIMessage(answer)
    for number, call in enumerate(answer.tool_calls):
        text = json.dumps(call["args"])
        for name, identity, part in [
            (call["name"], call["id"], ""),
            (None, None, text[:5]),
            (None, None, text[5:]),
        ]:
            piece = {"name": name, "args": part, "id": identity, "index": number}
            yield AIMessageChunk(content="", id=answer.id, tool_call_chunks=[piece])
    for word in str(answer.content).split(" ") if answer.content else ():
        yield AIMessageChunk(content=word + " ", id=answer.id)


def model(*answers: AIMessage | str) -> FakeModel:
    return FakeModel(messages=iter(answers))


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"Sunny in {city}"


@tool
def broken(city: str) -> str:
    """Fail."""
    raise ValueError(f"no weather in {city}")


def agent_graph(*answers: AIMessage | str, tools: Any = None) -> Any:
    """An agent as people build it: a model, its tools, and back."""
    fake = model(*(answers or (AIMessage("", tool_calls=[CALL]), "It is sunny.")))

    def agent(state: Any) -> Any:
        return {"messages": [fake.invoke(state["messages"])]}

    async def aagent(state: Any) -> Any:
        return {"messages": [await fake.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", RunnableLambda(agent, aagent))
    graph.add_node("tools", tools or ToolNode([weather]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", _next, ["tools", END])
    graph.add_edge("tools", "agent")
    return graph.compile()


def _next(state: Any) -> str:
    return "tools" if state["messages"][-1].tool_calls else END


class Many(TypedDict, total=False):
    outputs: Annotated[list[Any], operator.add]


def parallel_graph(*nodes: Callable[[Any], Any]) -> Any:
    """All nodes at once, each named for its function."""
    graph: Any = StateGraph(Many)
    for node in nodes:
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    return graph.compile()


async def until_cancelled() -> None:
    await asyncio.Event().wait()
