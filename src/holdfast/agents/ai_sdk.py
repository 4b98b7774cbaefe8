"""A run as the UI message stream of the AI SDK, which its ``useChat`` reads: version 1.

Pure but for the response. Each run is one message of the assistant; what the format has no chunk
for is a ``data-*`` part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.agents.wire import KINDS, Encoder, Speller, WireResponse, error_text, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from holdfast.agents.wire import Frame

DONE = "[DONE]"
"""What the format sends last, as it is."""

_ENDS = {"finish", "error", "abort"}
_NEEDS = {
    "abort": "",
    "custom": "kind",
    "error": "errorText",
    "file": "url mediaType",
    "finish": "",
    "finish-step": "",
    "message-metadata": "messageMetadata",
    "reasoning-delta": "id delta",
    "reasoning-end": "id",
    "reasoning-file": "url mediaType",
    "reasoning-start": "id",
    "reset-step": "",
    "source-document": "sourceId mediaType title",
    "source-url": "sourceId url",
    "start": "",
    "start-step": "",
    "steering-message": "id parts",
    "text-delta": "id delta",
    "text-end": "id",
    "text-start": "id",
    "tool-approval-request": "approvalId toolCallId",
    "tool-approval-response": "approvalId approved",
    "tool-input-available": "toolCallId toolName input",
    "tool-input-delta": "toolCallId inputTextDelta",
    "tool-input-error": "toolCallId toolName input errorText",
    "tool-input-start": "toolCallId toolName",
    "tool-output-available": "toolCallId output",
    "tool-output-denied": "toolCallId",
    "tool-output-error": "toolCallId errorText",
}
"""Each type of chunk, and what one has to have: a client breaks off at one that has it not."""

_TEXT, _REASONING = ("text", "id"), ("reasoning", "id")
_CALL, _APPROVAL = ("call", "toolCallId"), ("approval", "approvalId")
_BEGINS = {
    "text-start": _TEXT,
    "reasoning-start": _REASONING,
    "tool-input-start": _CALL,
    "tool-input-available": _CALL,
    "tool-input-error": _CALL,
    "tool-approval-request": _APPROVAL,
}
_GOES_ON = {
    "text-delta": _TEXT,
    "text-end": _TEXT,
    "reasoning-delta": _REASONING,
    "reasoning-end": _REASONING,
    "tool-input-delta": _CALL,
    "tool-approval-request": _CALL,
    "tool-approval-response": _APPROVAL,
    "tool-output-available": _CALL,
    "tool-output-denied": _CALL,
    "tool-output-error": _CALL,
}


class UIMessageStreamResponse(WireResponse):
    """Begin a run, or attach to it, and stream it as a UI message stream.

    ``return UIMessageStreamResponse(run_id, source)`` answers the ``POST`` of ``useChat``;
    ``UIMessageStreamResponse(run_id)`` answers the ``GET …/{id}/stream`` by which it resumes: the
    open run from its first event on, or 204 where there is none to resume.

    Args:
        run_id: the run, which is the id of the assistant's message too.
        source: as for :class:`~holdfast.RunResponse`; ``None`` attaches to a run that is open.
        **options: ``owner``, ``media_type``, ``headers``, ``background``, ``store`` and
            ``settings``, as for :class:`~holdfast.RunResponse`.
    """

    headers_of_format: ClassVar[Mapping[str, str]] = {"x-vercel-ai-ui-message-stream": "v1"}

    def encoder(self) -> Encoder:
        """Return an encoder for one reader."""
        return UIMessageEncoder(self.run_id)


class UIMessageEncoder(Speller):
    """Spells the events of one run as chunks of a UI message stream."""

    kinds = KINDS
    begins = _BEGINS
    goes_on = _GOES_ON
    ends = frozenset({"text-end", "reasoning-end"})

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id
        self._finished = False
        self._parts: dict[tuple[str, str], str] = {}
        self._numbers = 0
        self._calls: dict[str, bool] = {}
        self._tools: dict[str, tuple[str, Any]] = {}
        self._step: tuple[Any, bool] | None = None

    def notice(self, kind: str, data: dict[str, Any]) -> Iterator[Frame]:
        """Yield what says that events are gone."""
        self._gone = True
        yield from self._beginning()
        yield {**self._other(kind, data), "transient": True}

    def _speaks(self, data: Frame) -> bool:
        kind = data.get("type")
        if not isinstance(kind, str):
            return False
        needs = "data" if kind.startswith("data-") else _NEEDS.get(kind)
        # An agent may have events of its own whose types are named alike.
        return needs is not None and data.keys() >= set(needs.split())

    def _spelled(self, kind: str, data: Any) -> Iterator[Frame | str]:
        if kind == "message" and data == DONE:
            return  # what an agent's encoded stream ends with; the run has an end of its own
        yield from super()._spelled(kind, data)

    def _pass(self, frame: Frame) -> Iterator[Frame]:
        if frame["type"] == "start" and not self._begun:
            self._begun = True
            frame = {"messageId": self._run_id, **frame}
        elif frame["type"] == "start":
            # A second name of the message would be a second message.
            frame = {name: part for name, part in frame.items() if name != "messageId"}
        yield from self._beginning()
        self._finished = self._finished or frame["type"] in _ENDS
        yield frame

    def _start(self) -> Frame:
        return {"type": "start", "messageId": self._run_id}

    def _other(self, kind: str, data: Any) -> Frame:
        return {"type": f"data-{kind}", "data": data}

    # -- text and reasoning

    def _token(self, data: Frame) -> Iterable[Frame] | None:
        return self._delta("text", data)

    def _thinking(self, data: Frame) -> Iterable[Frame] | None:
        return self._delta("reasoning", data)

    def _delta(self, part: str, data: Frame) -> Iterable[Frame] | None:
        text = text_of(data)
        if text is None:
            return None
        message = self._message(data)
        frames = [*self._end_part("reasoning", message)] if part == "text" else []
        known = self._parts.get((part, message))
        if known is None:
            frames += self._in_a_step(data)
            self._numbers += 1
            known = self._parts[part, message] = f"{part}-{self._numbers}"
            frames.append({"type": f"{part}-start", "id": known})
        return [*frames, {"type": f"{part}-delta", "id": known, "delta": text}]

    def _model_finished(self, data: Frame) -> Iterable[Frame]:
        return self._end_message(self._message(data))

    def _model_error(self, data: Frame) -> Iterable[Frame]:
        told = {"type": "data-model_error", "data": data}
        return [*self._end_message(self._message(data)), told]

    def _message(self, data: Frame) -> str:
        return str(data.get("message") or self._run_id)

    def _end_message(self, message: str) -> list[Frame]:
        return [*self._end_part("reasoning", message), *self._end_part("text", message)]

    def _end_parts(self) -> Iterator[Frame]:
        for part, message in [*self._parts]:
            yield from self._end_part(part, message)

    def _end_part(self, part: str, message: str) -> Iterator[Frame]:
        known = self._parts.pop((part, message), None)
        if known is not None:
            yield {"type": f"{part}-end", "id": known}

    # -- tools

    def _tool_call_delta(self, data: Frame) -> Iterable[Frame] | None:
        text = text_of(data)
        if text is None:
            return None
        call, frames = str(data.get("call")), []
        if call not in self._calls:
            self._calls[call] = True
            frames = [*self._end_message(self._message(data)), *self._in_a_step(data)]
            named = {"toolCallId": call, "toolName": str(data.get("tool"))}
            frames.append({"type": "tool-input-start", **named})
        if self._calls[call]:
            frames.append({"type": "tool-input-delta", "toolCallId": call, "inputTextDelta": text})
        return frames

    def _tool_call(self, data: Frame) -> Iterable[Frame]:
        call = str(data.get("call"))
        if self._calls.get(call) is False:
            return []
        step = [] if call in self._calls else self._in_a_step(data)
        self._calls[call] = False
        named = {"toolCallId": call, "toolName": str(data.get("tool"))}
        told = {"type": "tool-input-available", **named, "input": data.get("arguments")}
        return [*self._end_message(self._message(data)), *step, told]

    def _tool_started(self, data: Frame) -> Iterable[Frame]:
        """What is called, for the result of a call that no model has announced."""
        self._tools[str(data.get("id"))] = (str(data.get("tool")), data.get("arguments"))
        return ()

    def _tool_result(self, data: Frame) -> Iterable[Frame]:
        output = data.get("output", data.get("result"))
        told = {"type": "tool-output-available", "toolCallId": str(data.get("call"))}
        return self._answer(data, {**told, "output": output})

    def _tool_error(self, data: Frame) -> Iterable[Frame]:
        message, kind = error_text(data)
        told = {"type": "tool-output-error", "toolCallId": str(data.get("call"))}
        return self._answer(data, {**told, "errorText": f"{kind}: {message}"})

    def _answer(self, data: Frame, told: Frame) -> list[Frame]:
        frames = [*self._announced(data), told]
        if self._step is not None:
            self._step = self._step[0], True
        return frames

    def _announced(self, data: Frame) -> Iterable[Frame]:
        """A client refuses the result of a call that it has not heard of."""
        tool, arguments = self._tools.get(str(data.get("id")), (str(data.get("tool")), {}))
        if self._calls.get(str(data.get("call"))) is False:
            return ()
        return self._tool_call({"call": data.get("call"), "tool": tool, "arguments": arguments})

    def _in_a_step(self, data: Frame) -> list[Frame]:
        """Begin a step for each answer of a model: what a client sends back is told apart by them.

        One whose calls have all been answered is what a client goes on from by itself.
        """
        message = data.get("message")
        step = self._step
        if step is not None and not (step[1] and (message is None or message != step[0])):
            return []
        self._step = message, False
        # Clients before version 7 know of no part any more that was open when a step ended.
        ended = [] if step is None else [*self._end_parts(), {"type": "finish-step"}]
        return [*ended, {"type": "start-step"}]

    # -- nodes

    def _node_started(self, data: Frame) -> Iterable[Frame]:
        return [_node(data, "running")]

    def _node_output(self, data: Frame) -> Iterable[Frame]:
        return [_node(data, "done")]

    def _node_error(self, data: Frame) -> Iterable[Frame]:
        return [_node(data, "failed")]

    # -- the end

    def _workflow_complete(self, data: Frame) -> Iterable[Frame | str]:
        output = data.get("output")
        told = [] if output is None else [{"type": "data-output", "data": output}]
        ended = [] if self._step is None else [{"type": "finish-step"}]
        return self._end([*ended, *told, {"type": "finish"}])

    def _workflow_error(self, data: Frame) -> Iterable[Frame | str]:
        return self._end([{"type": "error", "errorText": error_text(data)[0]}])

    def _run_stopped(self, data: Frame) -> Iterable[Frame | str]:
        return self._end([{"type": "abort", "reason": "stopped"}])

    def _run_lost(self, data: Frame) -> Iterable[Frame | str]:
        return self._end([{"type": "error", "errorText": "the process that ran it is gone"}])

    def _end(self, last: list[Frame]) -> Iterator[Frame | str]:
        self.done = True
        if not self._finished:
            yield from self._end_parts()
            yield from last
        yield DONE


def _node(data: Frame, status: str) -> Frame:
    """One part of the message for one run of a node: a later one takes its place."""
    node = str(data.get("id") or data.get("node"))
    return {"type": "data-node", "id": node, "data": {**data, "status": status}}
