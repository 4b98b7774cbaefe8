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


_DEFAULT = "updates"
_INTERRUPT = "__interrupt__"


class Parts:
    """The parts of one stream.

    Args:
        mode: what an item is that does not say so: the one ``stream_mode`` that was asked for.
    """

    def __init__(self, mode: str = _DEFAULT) -> None:
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
                yield from self._task(payload)
            case "values":
                yield from self._values(payload, item)
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
            if node == _INTERRUPT:
                yield from new_interrupts(output, self._asked)
            elif node != "__metadata__":
                yield "node_output", {"node": node, "output": output}

    def _values(self, payload: Any, item: Any) -> Iterator[Event]:
        # Version 2 says beside the state what the graph waits for, version 1 within it.
        found = item.get("interrupts") if _is_part(item) else None
        if isinstance(payload, dict) and _INTERRUPT in payload:
            found = payload[_INTERRUPT]
            payload = {name: part for name, part in payload.items() if name != _INTERRUPT}
        yield "state", {"state": payload}
        yield from new_interrupts(found, self._asked)

    def _task(self, payload: Mapping[str, Any]) -> Iterator[Event]:
        about = {"node": payload["name"], "id": payload["id"]}
        if "result" not in payload:
            yield "node_started", about
        elif payload.get("error"):
            error = {"type": "Error", "message": str(payload["error"])}
            yield "node_error", {**about, "error": error}
        elif payload.get("interrupts"):
            yield from new_interrupts(payload["interrupts"], self._asked)
        else:
            yield "node_output", {**about, "output": payload["result"]}

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
    if _is_part(item):
        return str(item["type"]), item["data"]
    if isinstance(item, tuple) and len(item) == 3:  # namespace, mode, payload
        return str(item[1]), item[2]
    if isinstance(item, tuple) and len(item) == 2:
        first, second = item
        if isinstance(first, str) and first in MODES:
            return first, second
        if isinstance(first, tuple):  # namespace, payload
            mode = "messages" if mode == _DEFAULT and isinstance(second, tuple) else mode
            return mode, second
        # Of the modes that need no saying only this one has pairs.
        return "messages" if mode == _DEFAULT else mode, item
    return mode, item


def _is_part(item: Any) -> bool:
    """Whether it is an item of version 2."""
    return isinstance(item, dict) and item.keys() >= {"type", "ns", "data"}
