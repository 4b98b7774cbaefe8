"""What a graph streams by ``stream`` and ``astream``, as events, in each of LangGraph's modes.

Values in, values out. The shape of an item depends on how the stream was asked for: one mode or a
list, with subgraphs or without, version 1 or 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.agents.langchain_messages import Event, ModelCall, new_interrupts, result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
        part = _unpacked(item, self._mode)
        match part.mode:
            case "messages":
                yield from self._message(*part.payload)
            case "updates":
                yield from self._updates(part.payload)
            case "tasks":
                yield from self._task(part.payload)
            case "values":
                yield from self._values(part)
            case _:
                yield part.mode, {"data": part.payload}

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

    def _values(self, part: _Part) -> Iterator[Event]:
        # Version 2 says beside the state what the graph waits for, version 1 within it.
        state, found = part.payload, part.interrupts
        if isinstance(state, dict) and _INTERRUPT in state:
            found = state[_INTERRUPT]
            state = {name: each for name, each in state.items() if name != _INTERRUPT}
        # A graph within a node has a state of its own.
        about = {"node": str(part.within[-1]).partition(":")[0]} if part.within else {}
        yield "state", {"state": state, **about}
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


@dataclass(frozen=True, slots=True)
class _Part:
    """One item, in whatever shape it has come, and the graphs within the graph where it is of."""

    mode: str
    payload: Any
    within: Sequence[Any] = ()
    interrupts: Any = None


def _unpacked(item: Any, mode: str) -> _Part:
    if isinstance(item, dict) and item.keys() >= {"type", "ns", "data"}:  # version 2
        return _Part(str(item["type"]), item["data"], item["ns"] or (), item.get("interrupts"))
    match item if isinstance(item, tuple) else None:  # a list is what somebody has written
        case (tuple() as within, str() as said, payload) if said in MODES:
            return _Part(said, payload, within)
        case (str() as said, payload) if said in MODES:
            return _Part(said, payload)
        case (tuple() as within, payload):
            pair = mode == _DEFAULT and isinstance(payload, tuple)
            return _Part("messages" if pair else mode, payload, within)
        case (_, _) if mode == _DEFAULT:
            # Of the modes that need no saying only this one has pairs.
            return _Part("messages", item)
    return _Part(mode, item)
