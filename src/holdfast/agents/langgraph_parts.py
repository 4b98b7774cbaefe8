"""What a graph streams by ``stream`` and ``astream``, as events, in each of LangGraph's modes.

Values in, values out. The shape of an item depends on how the stream was asked for: one mode or a
list, with subgraphs or without, version 1 or 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.agents.langchain_messages import Event, ModelCall, new_interrupts, result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MODES = frozenset(
    {"values", "updates", "messages", "custom", "tasks", "checkpoints", "debug", "tools"}
)


class Parts:
    """The parts of one stream.

    Args:
        mode: what an item is that does not say so: the one ``stream_mode`` that was asked for.
    """

    def __init__(self, mode: str = "updates") -> None:
        self._mode = mode
        self._models: dict[str, _Open] = {}
        self._asked: set[Any] = set()

    def feed(self, item: Any) -> Iterator[Event]:
        """Return the events that *item* says."""
        mode, payload = _unpacked(item, self._mode)
        match mode:
            case "messages":
                yield from self._message(*payload)
            case "updates":
                yield from self._updates(payload)
            case "tasks":
                yield from _task(payload)
            case "values":
                yield "state", {"state": payload}
            case _:
                yield mode, {"data": payload}

    def rest(self) -> Iterator[Event]:
        """Return the ends of the messages that are open still."""
        for message in list(self._models):
            yield from self._close(message)

    def _message(self, message: Any, metadata: Mapping[str, Any]) -> Iterator[Event]:
        if message.type == "tool":
            yield result(message, call=None, tool="")
            return
        node = metadata.get("langgraph_node")
        about = {"node": node} if node else {}
        key = getattr(message, "id", None) or str(node)
        if not hasattr(message, "tool_call_chunks"):
            # Whole: of a model that does not stream, or as a node has returned it.
            if message.type == "ai":
                yield from ModelCall(key, about).finished(message)
            return
        last = getattr(message, "chunk_position", None) == "last"
        place = metadata.get("langgraph_checkpoint_ns")
        if message.content or message.tool_call_chunks or key in self._models:
            found = self._models.setdefault(key, _Open(ModelCall(key, about), node, place))
            found.pieces.append(message)
            yield from found.call.chunk(message)
        elif last:
            # The end of an answer whose pieces had an id of the provider's, as this one has not.
            ended = [key for key, each in self._models.items() if each.place == place]
            for key in ended:
                yield from self._close(key)
        if last and key in self._models:
            yield from self._close(key)

    def _updates(self, payload: Mapping[str, Any]) -> Iterator[Event]:
        for message in [key for key, each in self._models.items() if each.node in payload]:
            yield from self._close(message)
        for node, output in payload.items():
            if node == "__interrupt__":
                yield from new_interrupts(output, self._asked)
            elif node != "__metadata__":
                yield "node_output", {"node": node, "output": output}

    def _close(self, message: str) -> Iterator[Event]:
        found = self._models.pop(message)
        first, *others = found.pieces
        yield from found.call.finished(first + others if others else first)


@dataclass(slots=True)
class _Open:
    """An answer that is on its way, where it is generated, and all of it so far."""

    call: ModelCall
    node: str | None
    place: str | None
    pieces: list[Any] = field(default_factory=list)


def _unpacked(item: Any, mode: str) -> tuple[str, Any]:
    """Return the mode and the payload of an item, in whatever shape it comes."""
    if isinstance(item, dict) and item.keys() >= {"type", "ns", "data"}:
        return str(item["type"]), item["data"]
    if isinstance(item, tuple) and len(item) == 3:  # namespace, mode, payload
        return str(item[1]), item[2]
    if isinstance(item, tuple) and len(item) == 2:
        first, second = item
        if isinstance(first, str) and first in MODES:
            return first, second
        if isinstance(first, tuple):  # namespace, payload
            return mode, second
        return "messages", item
    return mode, item


def _task(payload: Mapping[str, Any]) -> Iterator[Event]:
    about = {"node": payload["name"], "id": payload["id"]}
    if "result" not in payload:
        yield "node_started", about
    elif payload.get("error"):
        error = {"type": "Error", "message": str(payload["error"])}
        yield "node_error", {**about, "error": error}
    else:
        yield "node_output", {**about, "output": payload["result"]}
