"""What happens while a chain or a graph runs, as events: the callbacks of LangChain, decided.

Signals in, events out; nothing is published here. LangChain calls each thing that runs a *run* and
gives it an id; here it is a *step*, because a run is what its events belong to.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.agents.langchain_messages import (
    Event,
    ModelCall,
    new_interrupts,
    result,
    tool_messages,
)
from holdfast.agents.plain import error_of
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# LangGraph's own mark for a model whose answer is not shown.
_NO_STREAM = "nostream"
# … and for a node that is its own, as the one from which a graph begins.
_HIDDEN = "langsmith:hidden"


@dataclass(frozen=True, slots=True)
class Begun:
    """Who begins.

    Attributes:
        id: the step.
        name: of the node, model, tool …
        root: whether nothing else runs around it.
        tags, metadata: as LangChain gives them.
    """

    id: str
    name: str = ""
    root: bool = False
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, str]:
        """The node of the graph in which it runs, if it does."""
        node = self.metadata.get("langgraph_node")
        return {"node": node} if isinstance(node, str) else {}

    @property
    def place(self) -> str:
        """The run of a node in which it runs, or which it is."""
        return str(self.metadata.get("langgraph_checkpoint_ns", ""))

    @property
    def is_node(self) -> bool:
        """Whether it is a node of a graph, and not what runs inside of one."""
        marked = any(tag.startswith("graph:step:") for tag in self.tags)
        shown = marked and _HIDDEN not in self.tags
        return shown and self.metadata.get("langgraph_node") == self.name


class Steps:
    """The steps that run, and what each of them says. Steps of several threads do not meet."""

    def __init__(self) -> None:
        self._steps: dict[str, Begun] = {}
        self._models: dict[str, ModelCall] = {}
        self._asked: set[Any] = set()
        self._calls: dict[str, str] = {}
        self._unanswered: set[str] = set()
        self._answered: dict[str, set[str]] = {}

    # -- chains, graphs and their nodes

    def chain_start(self, begun: Begun) -> Iterator[Event]:
        if begun.is_node or begun.root:
            self._steps[begun.id] = begun
        if begun.is_node:
            yield "node_started", {"node": begun.name, "id": begun.id}

    def chain_end(self, step: str, output: Any) -> Iterator[Event]:
        begun = self._steps.pop(step, None)
        if begun is not None and begun.is_node:
            yield from self._answers(begun, output)
            yield "node_output", {"node": begun.name, "output": output, "id": step}
        elif begun is not None:
            yield "output", {"name": begun.name, "output": output}

    def chain_error(self, step: str, error: BaseException) -> Iterator[Event]:
        begun = self._steps.pop(step, None)
        if _is_signal(error):
            yield from self.interrupted(error.args[0] if error.args else ())
        elif begun is not None and begun.is_node and _is_failure(error):
            yield "node_error", {"node": begun.name, "error": error_of(error), "id": step}

    def _answers(self, node: Begun, output: Any) -> Iterator[Event]:
        """The results that a node has made by itself, of calls that no tool of it has answered."""
        answered = self._answered.pop(node.place, ())
        for message in tool_messages(output) if self._unanswered else ():
            if message.tool_call_id in self._unanswered and message.tool_call_id not in answered:
                self._unanswered.discard(message.tool_call_id)
                yield result(message, call=None, tool="")

    def _answer(self, tool: Begun | None, event: Event) -> Event:
        call = event[1]["call"]
        self._unanswered.discard(call)
        if tool is not None and tool.place:
            # Of runs at once that share a handler, models may name their calls alike.
            self._answered.setdefault(tool.place, set()).add(call)
        return event

    def interrupted(self, found: Any) -> Iterator[Event]:
        """A graph waits for somebody."""
        yield from new_interrupts(found, self._asked)

    # -- models

    def model_start(self, begun: Begun) -> Iterator[Event]:
        if _NO_STREAM not in begun.tags:
            call = self._models[begun.id] = ModelCall(begun.id, begun.about)
            yield call.started(begun.metadata.get("ls_model_name") or begun.name)

    def model_chunk(self, step: str, chunk: Any) -> Iterator[Event]:
        """A piece of an answer: of a message, or text."""
        call = self._models.get(step)
        if call is None:
            return
        message = getattr(chunk, "message", chunk)
        if hasattr(message, "content"):
            yield from call.chunk(message)
        else:
            yield from call.text(str(getattr(message, "text", message)))

    def model_end(self, step: str, output: Any) -> Iterator[Event]:
        """An answer is whole: a message, or what a model without messages gave."""
        call = self._models.pop(step, None)
        for kind, data in call.finished(_answer(output)) if call is not None else ():
            if kind == "tool_call":
                self._unanswered.add(data["call"])
            yield kind, data

    def model_error(self, step: str, error: BaseException) -> Iterator[Event]:
        call = self._models.pop(step, None)
        if call is not None and _is_failure(error):
            yield "model_error", {"message": call.message, "error": error_of(error)}

    # -- tools and retrievers

    def tool_start(self, begun: Begun, arguments: Any, call: str | None) -> Iterator[Event]:
        self._steps[begun.id] = begun
        named = {"call": call} if call else {}
        if call:
            self._calls[begun.id] = call
        data = {"tool": begun.name, "arguments": arguments, "id": begun.id}
        yield "tool_started", {**data, **named, **begun.about}

    def tool_end(self, step: str, output: Any, call: str | None = None) -> Iterator[Event]:
        begun, known = self._steps.pop(step, None), self._calls.pop(step, None)
        tool = begun.name if begun else ""
        yield self._answer(begun, result(output, call=call or known, tool=tool, run=step))

    def tool_error(
        self, step: str, error: BaseException, call: str | None = None
    ) -> Iterator[Event]:
        begun, known = self._steps.pop(step, None), self._calls.pop(step, None)
        if _is_failure(error):
            tool = begun.name if begun else ""
            about = {"call": call or known or step, "tool": tool, "id": step}
            yield self._answer(begun, ("tool_error", {**about, "error": error_of(error)}))

    def retriever_start(self, begun: Begun) -> Iterator[Event]:
        self._steps[begun.id] = begun
        yield from ()

    def retriever_end(self, step: str, documents: Any) -> Iterator[Event]:
        begun = self._steps.pop(step, None)
        yield "retrieved", {"name": begun.name if begun else "", "documents": documents}

    def retriever_error(self, step: str) -> Iterator[Event]:
        self._steps.pop(step, None)  # what asked it says so
        yield from ()

    def custom(self, name: str, data: Any) -> Iterator[Event]:
        yield "custom", {"name": name, "data": data}


class Callbacks:
    """The same from the callbacks of LangChain, by their names and arguments."""

    def __init__(self) -> None:
        self._steps = Steps()

    def on_chain_start(self, serialized: Any, inputs: Any, **about: Any) -> Iterator[Event]:
        return self._steps.chain_start(_begun(serialized, about))

    def on_chain_end(self, outputs: Any, *, run_id: Any, **_: Any) -> Iterator[Event]:
        return self._steps.chain_end(str(run_id), outputs)

    def on_chain_error(self, error: BaseException, *, run_id: Any, **_: Any) -> Iterator[Event]:
        return self._steps.chain_error(str(run_id), error)

    def on_chat_model_start(self, serialized: Any, messages: Any, **about: Any) -> Iterator[Event]:
        return self._steps.model_start(_begun(serialized, about))

    def on_llm_start(self, serialized: Any, prompts: Any, **about: Any) -> Iterator[Event]:
        return self._steps.model_start(_begun(serialized, about))

    def on_llm_new_token(
        self, token: Any, *, run_id: Any, chunk: Any = None, **_: Any
    ) -> Iterator[Event]:
        return self._steps.model_chunk(str(run_id), token if chunk is None else chunk)

    def on_llm_end(self, response: Any, *, run_id: Any, **_: Any) -> Iterator[Event]:
        return self._steps.model_end(str(run_id), response)

    def on_llm_error(self, error: BaseException, *, run_id: Any, **_: Any) -> Iterator[Event]:
        return self._steps.model_error(str(run_id), error)

    def on_tool_start(
        self, serialized: Any, input_str: str, *, inputs: Any = None, **about: Any
    ) -> Iterator[Event]:
        arguments = input_str if inputs is None else inputs
        call = about.get("tool_call_id")
        return self._steps.tool_start(_begun(serialized, about), arguments, call)

    def on_tool_end(
        self, output: Any, *, run_id: Any, tool_call_id: str | None = None, **_: Any
    ) -> Iterator[Event]:
        return self._steps.tool_end(str(run_id), output, tool_call_id)

    def on_tool_error(
        self, error: BaseException, *, run_id: Any, tool_call_id: str | None = None, **_: Any
    ) -> Iterator[Event]:
        return self._steps.tool_error(str(run_id), error, tool_call_id)

    def on_retriever_start(self, serialized: Any, query: str, **about: Any) -> Iterator[Event]:
        return self._steps.retriever_start(_begun(serialized, about))

    def on_retriever_end(self, documents: Any, *, run_id: Any, **_: Any) -> Iterator[Event]:
        return self._steps.retriever_end(str(run_id), documents)

    def on_retriever_error(self, error: BaseException, *, run_id: Any, **_: Any) -> Iterator[Event]:
        return self._steps.retriever_error(str(run_id))

    def on_custom_event(self, name: str, data: Any, **_: Any) -> Iterator[Event]:
        return self._steps.custom(name, data)


CALLBACKS = tuple(name for name in vars(Callbacks) if name.startswith("on_"))
"""The callbacks that say something."""


class StreamedSteps:
    """The same from ``astream_events``: each item says what has happened."""

    def __init__(self) -> None:
        self._steps = Steps()

    def feed(self, item: Mapping[str, Any]) -> Iterator[Event]:
        """Return the events that *item* says."""
        happened, data, step = item["event"], item["data"], item["run_id"]
        if happened == "on_custom_event":
            yield from self._steps.custom(item["name"], data)
        elif happened.endswith("_start"):
            yield from self._start(happened, item)
        elif happened.endswith("_stream"):
            yield from self._chunk(happened, step, data.get("chunk"))
        else:
            yield from self._end(happened, step, data)

    def rest(self) -> Iterator[Event]:
        """Return nothing more: what runs has said when it ends."""
        yield from ()

    def _start(self, happened: str, item: Mapping[str, Any]) -> Iterator[Event]:
        begun = Begun(
            id=item["run_id"],
            name=item["name"],
            root=not item.get("parent_ids"),
            tags=item.get("tags") or (),
            metadata=item.get("metadata") or {},
        )
        match happened:
            case "on_chain_start":
                yield from self._steps.chain_start(begun)
            case "on_chat_model_start" | "on_llm_start":
                yield from self._steps.model_start(begun)
            case "on_tool_start":
                yield from self._steps.tool_start(begun, item["data"].get("input"), None)
            case "on_retriever_start":
                yield from self._steps.retriever_start(begun)

    def _chunk(self, happened: str, step: str, chunk: Any) -> Iterator[Event]:
        if happened in {"on_chat_model_stream", "on_llm_stream"}:
            yield from self._steps.model_chunk(step, chunk)
        elif isinstance(chunk, dict) and "__interrupt__" in chunk:
            yield from self._steps.interrupted(chunk["__interrupt__"])

    def _end(self, happened: str, step: str, data: Mapping[str, Any]) -> Iterator[Event]:
        match happened:
            case "on_chain_end":
                yield from self._steps.chain_end(step, data.get("output"))
            case "on_chat_model_end" | "on_llm_end":
                yield from self._steps.model_end(step, data.get("output"))
            case "on_tool_end":
                yield from self._steps.tool_end(step, data.get("output"))
            case "on_tool_error":
                error = data.get("error") or RuntimeError("the tool failed")
                yield from self._steps.tool_error(step, error, data.get("tool_call_id"))
            case "on_retriever_end":
                yield from self._steps.retriever_end(step, data.get("output"))


def _begun(serialized: Mapping[str, Any] | None, about: Mapping[str, Any]) -> Begun:
    """What a callback says of who begins; the name of the call beats that of the class."""
    return Begun(
        id=str(about["run_id"]),
        name=about.get("name") or (serialized or {}).get("name") or "",
        root=about.get("parent_run_id") is None,
        tags=about.get("tags") or (),
        metadata=about.get("metadata") or {},
    )


def _answer(output: Any) -> Any:
    """The message or the text that a model gave: the first, where it was asked for several."""
    found = output.get("generations") if isinstance(output, dict) else None
    found = found or getattr(output, "generations", output)
    while isinstance(found, list) and found:
        found = found[0]
    if isinstance(found, dict):
        return found.get("message") or found.get("text", "")
    if hasattr(found, "content"):
        return found
    return getattr(found, "message", None) or getattr(found, "text", found)


def _is_signal(error: BaseException) -> bool:
    """Whether LangGraph's own control flow passes by: a graph that waits, not one that failed."""
    return any(each.__name__ == "GraphBubbleUp" for each in type(error).__mro__)


def _is_failure(error: BaseException) -> bool:
    """Whether the step failed: not that it was cancelled, nor that the run takes no events."""
    return not isinstance(error, asyncio.CancelledError | HoldfastError) and not _is_signal(error)
