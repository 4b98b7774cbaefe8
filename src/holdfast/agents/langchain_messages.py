"""What the messages of LangChain say: text, reasoning, tools to be called, results.

Values in, values out; known by their attributes, so that no LangChain is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Event = tuple[str, dict[str, Any]]


class ModelCall:
    """One answer of a model, as it comes.

    Args:
        message: the id by which its events belong together.
        about: more that each of its events says, such as the node.
    """

    def __init__(self, message: str, about: Mapping[str, Any]) -> None:
        self.message = message
        self._about = {"message": message, **about}
        self._spoke = False
        self._calls: dict[Any, tuple[str, str]] = {}

    def started(self, model: str | None) -> Event:
        """The model has been asked."""
        named = {"model": model} if model else {}
        return "model_started", {**self._about, **named}

    def text(self, text: str) -> Iterator[Event]:
        """Yield the event of a piece of text, which may be empty."""
        if text:
            self._spoke = True
            yield "token", {"text": text, **self._about}

    def chunk(self, chunk: Any) -> Iterator[Event]:
        """Yield what a piece of a message says."""
        for kind, text in _said(chunk):
            self._spoke = True
            yield kind, {"text": text, **self._about}
        for piece in getattr(chunk, "tool_call_chunks", None) or ():
            call, tool = self._call_of(piece)
            if piece.get("args"):
                data = {"call": call, "tool": tool, "text": piece["args"]}
                yield "tool_call_delta", {**data, **self._about}

    def finished(self, message: Any) -> Iterator[Event]:
        """Yield what the whole *message* says beyond what its pieces have said."""
        if not self._spoke:
            yield from self._whole(message)
        calls = [*getattr(message, "tool_calls", ()), *getattr(message, "invalid_tool_calls", ())]
        begun = [call for call, _ in self._calls.values()]
        for number, call in enumerate(calls):
            known = begun[number] if number < len(begun) else f"{self.message}:{number}"
            yield (
                "tool_call",
                {
                    "call": call.get("id") or known,
                    "tool": call.get("name") or "",
                    "arguments": call.get("args"),
                    **self._about,
                },
            )
        yield self.ended(message)

    def ended(self, message: Any) -> Event:
        """The model has answered: why it stopped and what it used, where that is known."""
        metadata = getattr(message, "response_metadata", None) or {}
        reason = metadata.get("finish_reason") or metadata.get("stop_reason")
        usage = getattr(message, "usage_metadata", None)
        more = {"reason": reason} if reason else {}
        return "model_finished", {**self._about, **more, **({"usage": usage} if usage else {})}

    def _whole(self, message: Any) -> Iterator[Event]:
        for kind, text in _said(message):
            yield kind, {"text": text, **self._about}

    def _call_of(self, piece: Mapping[str, Any]) -> tuple[str, str]:
        """Which call a piece belongs to: only the first one says its id and its name."""
        index = piece.get("index")
        if index is None and not piece.get("id") and self._calls:
            index = next(reversed(self._calls))
        elif index is None:
            index = len(self._calls)
        if index not in self._calls:
            call = piece.get("id") or f"{self.message}:{len(self._calls)}"
            self._calls[index] = (call, piece.get("name") or "")
        return self._calls[index]


def result(output: Any, *, call: str | None, tool: str, run: str | None = None) -> Event:
    """Return the event of what a tool gave, which may be a message that says so.

    A tool of LangGraph may give a command instead, which has that message among its changes.
    """
    if hasattr(output, "goto"):
        said = [each for each in tool_messages(output) if call in {None, each.tool_call_id}]
        output = said[-1] if said else output
    call = call or getattr(output, "tool_call_id", None) or run
    about = {"call": call, "tool": tool or getattr(output, "name", None) or ""}
    if run:
        about["id"] = run
    content = getattr(output, "content", output)
    if getattr(output, "status", None) == "error":
        return "tool_error", {**about, "error": {"type": "ToolError", "message": str(content)}}
    return "tool_result", {**about, "output": content}


def tool_messages(output: Any, depth: int = 4) -> Iterator[Any]:
    """Yield the messages of tools in what a node has given: changes of a state, or commands.

    Args:
        depth: how many containers within each other are looked into: a state may be of any kind.
    """
    if depth < 0:
        return
    if getattr(output, "tool_call_id", None):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from tool_messages(part, depth - 1) if isinstance(part, list | tuple) else ()
    elif isinstance(output, list | tuple):
        for each in output:
            yield from tool_messages(each, depth - 1)
    elif hasattr(output, "goto"):
        yield from tool_messages(output.update, depth - 1)


def new_interrupts(found: Any, asked: set[Any]) -> Iterator[Event]:
    """Yield the event of a graph that waits for somebody's word, if it has not been told.

    Args:
        found: LangGraph's interrupts, which each graph around the one that waits hands on.
        asked: the ids of those that have been told; the new ones are added.
    """
    told = []
    for each in found if isinstance(found, list | tuple) else ():
        one = each if isinstance(each, dict) else {"id": each.id, "value": each.value}
        if one["id"] not in asked:
            asked.add(one["id"])
            told.append({"id": one["id"], "value": one["value"]})
    if told:
        yield "interrupt", {"interrupts": told}


def _said(message: Any) -> Iterator[tuple[str, str]]:
    """Yield text and reasoning, in the order of the message."""
    content = getattr(message, "content", message)
    reasoning = (getattr(message, "additional_kwargs", None) or {}).get("reasoning_content")
    if isinstance(content, str):
        if isinstance(reasoning, str) and reasoning:
            yield "thinking", reasoning
        if content:
            yield "token", content
        return
    # The library's own idea of what each provider's blocks mean.
    for block in getattr(message, "content_blocks", None) or ():
        if block.get("type") == "text" and block.get("text"):
            yield "token", block["text"]
        elif block.get("type") == "reasoning" and block.get("reasoning"):
            yield "thinking", block["reasoning"]
