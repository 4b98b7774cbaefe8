"""What is open for a client of AG-UI, and the frames of an agent that speaks it by itself.

They pass as they are, but for what the client would refuse: where events are gone, and where the
agent's frames and those that are spelled for it meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.agents.wire import Speller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.agents.wire import Frame, Thing

_ENDS = {"RUN_FINISHED", "RUN_ERROR"}
_CLOSED_BY = {
    "TEXT_MESSAGE_START": ("TEXT_MESSAGE_END", "messageId"),
    "REASONING_MESSAGE_START": ("REASONING_MESSAGE_END", "messageId"),
    "REASONING_START": ("REASONING_END", "messageId"),
    "TOOL_CALL_START": ("TOOL_CALL_END", "toolCallId"),
    "STEP_STARTED": ("STEP_FINISHED", "stepName"),
    "SUBAGENT_STARTED": ("SUBAGENT_ERROR", "subagentRunId"),
    # Of versions before 1.0, which its clients read still. They have no name.
    "THINKING_START": ("THINKING_END", ""),
    "THINKING_TEXT_MESSAGE_START": ("THINKING_TEXT_MESSAGE_END", ""),
}
_BEGINS = {begun: (begun, name) for begun, (_, name) in _CLOSED_BY.items()}
_CLOSES = {
    **{closed_by: _BEGINS[begun] for begun, (closed_by, _) in _CLOSED_BY.items()},
    "SUBAGENT_FINISHED": _BEGINS["SUBAGENT_STARTED"],
}
_GOES_ON = {
    **_CLOSES,
    "TEXT_MESSAGE_CONTENT": _BEGINS["TEXT_MESSAGE_START"],
    "REASONING_MESSAGE_CONTENT": _BEGINS["REASONING_MESSAGE_START"],
    "TOOL_CALL_ARGS": _BEGINS["TOOL_CALL_START"],
    "THINKING_TEXT_MESSAGE_CONTENT": _BEGINS["THINKING_TEXT_MESSAGE_START"],
}
_CHUNKS = {
    "TEXT_MESSAGE_CHUNK": (*_BEGINS["TEXT_MESSAGE_START"], {"messageId"}),
    "REASONING_MESSAGE_CHUNK": (*_BEGINS["REASONING_MESSAGE_START"], {"messageId"}),
    "TOOL_CALL_CHUNK": (*_BEGINS["TOOL_CALL_START"], {"toolCallId", "toolCallName"}),
}
"""Frames that a client makes the others of: of what, its name, what the first one must say."""
_TYPES = _ENDS | {
    "ACTIVITY_DELTA",
    "ACTIVITY_SNAPSHOT",
    "CUSTOM",
    "MESSAGES_SNAPSHOT",
    "RAW",
    "REASONING_ENCRYPTED_VALUE",
    "REASONING_END",
    "REASONING_MESSAGE_CHUNK",
    "REASONING_MESSAGE_CONTENT",
    "REASONING_MESSAGE_END",
    "REASONING_MESSAGE_START",
    "REASONING_START",
    "RUN_STARTED",
    "STATE_DELTA",
    "STATE_SNAPSHOT",
    "STEP_FINISHED",
    "STEP_STARTED",
    "SUBAGENT_ERROR",
    "SUBAGENT_FINISHED",
    "SUBAGENT_STARTED",
    "TEXT_MESSAGE_CHUNK",
    "TEXT_MESSAGE_CONTENT",
    "TEXT_MESSAGE_END",
    "TEXT_MESSAGE_START",
    "THINKING_END",
    "THINKING_START",
    "THINKING_TEXT_MESSAGE_CONTENT",
    "THINKING_TEXT_MESSAGE_END",
    "THINKING_TEXT_MESSAGE_START",
    "TOOL_CALL_ARGS",
    "TOOL_CALL_CHUNK",
    "TOOL_CALL_END",
    "TOOL_CALL_RESULT",
    "TOOL_CALL_START",
}


class Passing(Speller):
    """Passes frames, and knows what is open of them and of those that a subclass spells."""

    begins = _BEGINS
    goes_on = _GOES_ON
    ends = _CLOSES

    def __init__(self) -> None:
        super().__init__()
        self._calls: set[str] = set()
        self._subagents: set[str] = set()
        self._chunks: dict[tuple[str, str], Any] = {}

    def _speaks(self, data: Frame) -> bool:
        return str(data.get("type")) in _TYPES

    def notice(self, kind: str, data: Frame) -> Iterator[Frame]:
        """Yield what says that events are gone."""
        self._chunks.clear()  # what they were of may have ended since
        return super().notice(kind, data)

    def _pass(self, frame: Frame) -> Iterator[Frame]:
        kind = frame["type"]
        if kind == "RUN_STARTED":
            if self._begun:
                return  # a client takes a second one for an error
            self._begun = True
        yield from self._beginning()
        yield from self._end_before(frame)
        self.done = kind in _ENDS
        if self.done:
            yield from self._close_all()
        yield self._within_what_is_known(frame)

    def _follows(self, frame: Frame) -> bool:
        kind = frame["type"]
        if kind == "SUBAGENT_STARTED":
            return str(frame.get("subagentRunId")) not in self._subagents  # it begins once
        if kind == "TOOL_CALL_RESULT":
            # In a conversation with models a result without its call is an error.
            return not self._gone or str(frame.get("toolCallId")) in self._calls
        if kind in _CHUNKS:
            return self._is_of_a_known_one(frame)
        return super()._follows(frame)

    def _is_of_a_known_one(self, chunk: Frame) -> bool:
        """Whether it says of what it is, or one that was told since events have gone did."""
        kind = chunk["type"]
        _, name, needed = _CHUNKS[kind]
        lane = kind, str(chunk.get("subagentRunId"))
        if all(chunk.get(each) for each in needed):
            self._chunks[lane] = chunk[name]
            return True
        known = lane in self._chunks and chunk.get(name) in (None, self._chunks[lane])
        return known or not self._gone

    def _end_before(self, frame: Frame) -> Iterator[Frame]:
        """End what *frame* begins again: its end is gone, or we have begun it under this name."""
        what, name, *_ = _CHUNKS.get(frame["type"]) or _BEGINS.get(frame["type"]) or ("", "")
        thing = self._thing(what, name, frame)
        if thing in self._open:
            yield self._open[thing]

    def _within_what_is_known(self, frame: Frame) -> Frame:
        """A client refuses a subagent of one that it has not heard of."""
        parent = frame.get("parentSubagentRunId")
        if not self._gone or parent is None or str(parent) in self._subagents:
            return frame
        return {name: part for name, part in frame.items() if name != "parentSubagentRunId"}

    def _note(self, frame: Frame) -> None:
        super()._note(frame)
        match frame["type"]:
            case "TOOL_CALL_START" | "TOOL_CALL_CHUNK":
                self._calls.add(str(frame.get("toolCallId")))
            case "MESSAGES_SNAPSHOT":
                self._calls.update(_calls_of(frame.get("messages")))
            case "SUBAGENT_STARTED":
                self._subagents.add(str(frame.get("subagentRunId")))

    def _thing(self, what: str, name: str, frame: Frame) -> Thing:
        # A step is named within its subagent, everything else by an id of its own.
        within = frame.get("subagentRunId") if name == "stepName" else None
        return what, str(frame.get(name)), within and str(within)

    def _ending(self, thing: Thing, begun: Frame) -> Frame:
        ended_by, name = _CLOSED_BY[thing[0]]
        names = {
            each: begun[each] for each in (name, "subagentRunId") if begun.get(each) is not None
        }
        if ended_by == "SUBAGENT_ERROR":
            names["message"] = "it did not finish"
        return {"type": ended_by, **names}

    def _is_open(self, what: str, name: str) -> bool:
        return (what, name, None) in self._open

    def _close_all(self) -> Iterator[Frame]:
        """Close what is open: within others first what was opened last."""
        yield from reversed([*self._open.values()])


def _calls_of(messages: Any) -> Iterator[str]:
    for message in messages if isinstance(messages, list) else ():
        calls = message.get("toolCalls") if isinstance(message, dict) else None
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                yield str(call.get("id"))
