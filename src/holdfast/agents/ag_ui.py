"""A run as AG-UI: the Agent User Interaction Protocol, version 1.0, over Server-Sent Events.

Pure but for the response. What the protocol has no event for is its ``CUSTOM``; what is open is
closed before the run is, because clients check that.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from holdfast.agents.ag_ui_passing import Passing
from holdfast.agents.wire import KINDS, Encoder, WireResponse, as_text, error_text, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from holdfast.agents.wire import Frame, Options
    from holdfast.streams.publishing.sources import Source

PROTOCOL_VERSION = "1.0"

_USAGE = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "total_tokens": "totalTokens",
}
_MAX_COUNT = 2**31
"""Of one answer, so that the sum of a run is one that JSON numbers carry."""


class AGUIResponse(WireResponse):
    """Begin a run, or attach to it, and stream it as AG-UI events.

    ``return AGUIResponse(input.run_id, source, thread_id=input.thread_id)`` answers the ``POST`` of
    an AG-UI client. The run goes on when the client leaves; the same request again, from anywhere,
    tells it from its first event on and continues live.

    Args:
        run_id: the run, which is the ``runId`` of the protocol too.
        source: as for :class:`~holdfast.RunResponse`; ``None`` attaches to a run that there is,
            open or ended, and answers 204 where there is none.
        thread_id: the ``threadId`` of the protocol. Default: the run id.
        **options: ``owner``, ``media_type``, ``headers``, ``background``, ``store`` and
            ``settings``, as for :class:`~holdfast.RunResponse`.
    """

    replays: ClassVar[bool] = True

    def __init__(
        self,
        run_id: str,
        source: Source | None = None,
        *,
        thread_id: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(run_id, source, **options)
        self._thread_id = thread_id or run_id

    def encoder(self) -> Encoder:
        """Return an encoder for one reader."""
        return AGUIEncoder(self.run_id, self._thread_id)


class AGUIEncoder(Passing):
    """Spells the events of one run as frames of AG-UI."""

    kinds = KINDS | {"interrupt", "model_started", "state"}

    def __init__(self, run_id: str, thread_id: str) -> None:
        super().__init__()
        self._names = {"threadId": thread_id, "runId": run_id}
        self._reasoning: dict[str, str] = {}
        self._spans = 0
        self._tools: dict[str, tuple[str, Any]] = {}
        self._steps: dict[str, str] = {}
        self._interrupts: list[Frame] = []
        self._models: dict[str, str] = {}
        self._used: dict[str, Counter[str]] = {}

    def _start(self) -> Frame:
        return {"type": "RUN_STARTED", **self._names, "protocolVersion": PROTOCOL_VERSION}

    def _other(self, kind: str, data: Any) -> Frame:
        return _custom(kind, data)

    # -- messages

    def _token(self, data: Frame) -> Iterable[Frame] | None:
        text = text_of(data)
        if text is None:
            return None
        message = self._message(data)
        frames = [*self._end_reasoning(message)]
        if not self._is_open("TEXT_MESSAGE_START", message):
            frames.append({"type": "TEXT_MESSAGE_START", "messageId": message, "role": "assistant"})
        if text:
            frames.append({"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": text})
        return frames

    def _thinking(self, data: Frame) -> Iterable[Frame] | None:
        text = text_of(data)
        if text is None:
            return None
        message, frames = self._message(data), []
        span = self._reasoning.get(message)
        if span is None:
            self._spans += 1
            span = self._reasoning[message] = f"{message}:reasoning:{self._spans}"
            frames = [
                {"type": "REASONING_START", "messageId": span},
                {"type": "REASONING_MESSAGE_START", "messageId": span, "role": "reasoning"},
            ]
        return [*frames, {"type": "REASONING_MESSAGE_CONTENT", "messageId": span, "delta": text}]

    def _model_started(self, data: Frame) -> Iterable[Frame]:
        if data.get("model"):
            self._models[self._message(data)] = str(data["model"])
        return ()

    def _model_finished(self, data: Frame) -> Iterable[Frame]:
        message = self._message(data)
        usage = data.get("usage")
        if isinstance(usage, dict):
            used = self._used.setdefault(self._models.get(message, ""), Counter())
            used.update(
                {_USAGE[name]: usage[name] for name in _USAGE if _is_count(usage.get(name))}
            )
        return [*self._end_reasoning(message), *self._end_text(message)]

    def _model_error(self, data: Frame) -> Iterable[Frame]:
        return [*self._model_finished(data), _custom("model_error", data)]

    def _message(self, data: Frame) -> str:
        return str(data.get("message") or self._names["runId"])

    def _end_reasoning(self, message: str) -> Iterator[Frame]:
        span = self._reasoning.pop(message, None)
        if span is not None:
            yield {"type": "REASONING_MESSAGE_END", "messageId": span}
            yield {"type": "REASONING_END", "messageId": span}

    def _end_text(self, message: str) -> Iterator[Frame]:
        if self._is_open("TEXT_MESSAGE_START", message):
            yield {"type": "TEXT_MESSAGE_END", "messageId": message}

    # -- tools

    def _tool_call_delta(self, data: Frame) -> Iterable[Frame] | None:
        text = text_of(data)
        return None if text is None else self._arguments(str(data.get("call")), text, data)

    def _arguments(self, call: str, text: str, data: Frame) -> Iterator[Frame]:
        if self._gone and call not in self._calls:
            return  # pieces before it may be gone; the whole call says all of them
        yield from self._announce(call, data)
        if self._is_open("TOOL_CALL_START", call):
            yield {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": text}

    def _tool_call(self, data: Frame) -> Iterable[Frame]:
        call = str(data.get("call"))
        if call not in self._calls:
            text = as_text(data.get("arguments"))
            yield from self._announce(call, data)
            yield {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": text}
        yield from self._end_call(call)

    def _tool_started(self, data: Frame) -> Iterable[Frame]:
        """What is called, for the result of a call that no model has announced."""
        tool = (str(data.get("tool")), data.get("arguments"))
        self._tools[str(data.get("call") or data.get("id"))] = tool
        self._tools[str(data.get("id"))] = tool
        return ()

    def _tool_result(self, data: Frame) -> Iterable[Frame]:
        content = data.get("output", data.get("result"))
        return self._result(data, as_text(content))

    def _tool_error(self, data: Frame) -> Iterable[Frame]:
        message, kind = error_text(data)
        return self._result(data, f"{kind}: {message}")

    def _result(self, data: Frame, content: str) -> Iterator[Frame]:
        call = str(data.get("call"))
        if call not in self._calls:
            tool, arguments = self._tools.get(str(data.get("id")), (str(data.get("tool")), {}))
            yield from self._tool_call({"call": call, "tool": tool, "arguments": arguments})
        yield from self._end_call(call)
        yield {
            "type": "TOOL_CALL_RESULT",
            "messageId": f"{call}:result",
            "toolCallId": call,
            "content": content,
            "role": "tool",
        }

    def _announce(self, call: str, data: Frame) -> Iterator[Frame]:
        if call in self._calls:
            return
        start = {"toolCallId": call, "toolCallName": str(data.get("tool"))}
        parent = {"parentMessageId": str(data["message"])} if data.get("message") else {}
        yield from self._end_reasoning(self._message(data))
        yield {"type": "TOOL_CALL_START", **start, **parent}

    def _end_call(self, call: str) -> Iterator[Frame]:
        if self._is_open("TOOL_CALL_START", call):
            yield {"type": "TOOL_CALL_END", "toolCallId": call}

    # -- nodes and state

    def _node_started(self, data: Frame) -> Iterable[Frame]:
        node, key = str(data.get("node")), str(data.get("id") or data.get("node"))
        # A name may be open once only, and a graph may run a node beside itself.
        name, number = node, 1
        while self._is_open("STEP_STARTED", name):
            number += 1
            name = f"{node} ({number})"
        yield from self._end_step(key)
        self._steps[key] = name
        yield {"type": "STEP_STARTED", "stepName": name}

    def _node_output(self, data: Frame) -> Iterable[Frame]:
        yield _custom("node_output", data)
        yield from self._end_step(str(data.get("id") or data.get("node")))

    def _node_error(self, data: Frame) -> Iterable[Frame]:
        yield _custom("node_error", data)
        yield from self._end_step(str(data.get("id") or data.get("node")))

    def _end_step(self, key: str) -> Iterator[Frame]:
        name = self._steps.pop(key, None)
        if name is not None and self._is_open("STEP_STARTED", name):
            yield {"type": "STEP_FINISHED", "stepName": name}

    def _state(self, data: Frame) -> Iterable[Frame] | None:
        if data.get("node"):
            return None  # of a graph within the graph, which has another
        return [{"type": "STATE_SNAPSHOT", "snapshot": data.get("state")}]

    def _interrupt(self, data: Frame) -> Iterable[Frame]:
        found = data.get("interrupts")
        for each in found if isinstance(found, list) else ():
            if not isinstance(each, dict):
                continue
            told = {"id": str(each.get("id")), "reason": "interrupt"}
            self._interrupts.append({**told, "metadata": {"value": each.get("value")}})
        return ()

    # -- the end

    def _workflow_complete(self, data: Frame) -> Iterable[Frame]:
        finished: Frame = {"type": "RUN_FINISHED", **self._names}
        if data.get("output") is not None:
            finished["result"] = data["output"]
        if self._interrupts:
            finished["outcome"] = {"type": "interrupt", "interrupts": self._interrupts}
        return self._end(finished)

    def _workflow_error(self, data: Frame) -> Iterable[Frame]:
        message, kind = error_text(data)
        return self._end({"type": "RUN_ERROR", "message": message, "code": kind})

    def _run_stopped(self, data: Frame) -> Iterable[Frame]:
        outcome = {"type": "cancelled"}
        return self._end({"type": "RUN_FINISHED", **self._names, "outcome": outcome})

    def _run_lost(self, data: Frame) -> Iterable[Frame]:
        message = "the process that ran it is gone"
        return self._end({"type": "RUN_ERROR", "message": message, "code": "run_lost"})

    def _end(self, last: Frame) -> Iterator[Frame]:
        self.done = True
        used = [
            {**({"model": model} if model else {}), **counts}
            for model, counts in self._used.items()
            if counts
        ]
        if used:
            last["usage"] = used
        yield from self._close_all()
        yield last


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT


def _custom(name: str, value: Any) -> Frame:
    return {"type": "CUSTOM", "name": name, "value": value}
