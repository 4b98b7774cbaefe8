"""What a model with OpenAI's interface streams, chat completions or responses, as a run's source.

Known by its attributes: no ``openai`` is imported, so that whatever has the same shape will do. One
translation, pure, for both interfaces.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from holdfast.agents.source import Events, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.agents.plain import Made

Event = tuple[str, dict[str, Any]]


class ModelError(RuntimeError):
    """The model said that its answer has failed. The message is the model's."""


def openai_events(stream: Any, *, max_bytes: int | None = None) -> Events:
    """Return what a model streams as events, for ``start_run`` and ``RunResponse``.

    ``RunResponse(run_id, openai_events(client.responses.create(…, stream=True)))``: given without
    ``await``, the model is asked only where this begins the run. A stop of the run closes the
    stream, and with it the model's work.

    Args:
        stream: what ``client.chat.completions.create(…, stream=True)`` or
            ``client.responses.create(…, stream=True)`` returns, awaited or not; or a function that
            returns that, or what ``client.chat.completions.stream(…)`` or
            ``client.responses.stream(…)`` returns.
        max_bytes: of one event's data as JSON. Longer text becomes several events, another part
            that is too large is replaced by ``{"too_large": <bytes>}``. Default:
            ``HOLDFAST_STREAM_MAX_EVENT_BYTES``.

    Reading it raises what the client raises, and :class:`ModelError` where the model says that
    the answer has failed.
    """
    return Events(stream, _Translation(), max_bytes)


def openai_events_sync(stream: Any, *, max_bytes: int | None = None) -> Iterator[Made]:
    """Yield the same of a synchronous client as ``(type, data)``, for ``SyncRunPublisher.emit``."""
    return read(stream, _Translation(), max_bytes)


class _Translation:
    """Either interface, by what the items look like."""

    def __init__(self) -> None:
        self._chat = _Chat()
        self._responses = _Responses()

    def feed(self, item: Any) -> Iterator[Event]:
        kind = getattr(item, "type", None)
        if kind == "chunk":  # of the streaming helper, which tells each thing a second time
            yield from self._chat.feed(item.chunk)
        elif isinstance(getattr(item, "choices", None), list):
            yield from self._chat.feed(item)
        elif isinstance(kind, str) and (kind.startswith("response.") or kind == "error"):
            yield from self._responses.feed(item)

    def rest(self) -> Iterator[Event]:
        yield from self._chat.rest()


class _Choice:
    """One answer of a chat completion, of which there may be several at once."""

    def __init__(self, message: str, model: str) -> None:
        self.message = message
        self.model = model
        self.calls: list[_Call] = []
        self.reason: str | None = None
        self._latest: dict[int | None, _Call] = {}

    def call_of(self, piece: Any) -> _Call:
        """Return the call that a piece is of. Not every server counts the calls of one answer."""
        name = (piece.function and piece.function.name) or ""
        call = self._latest.get(piece.index)
        if call is None or (name and piece.id and piece.id != call.call):
            identity = piece.id or f"{self.message}:{piece.index}"
            call = self._latest[piece.index] = _Call(identity, name)
            self.calls.append(call)
        return call

    def ended(self, usage: Any) -> Iterator[Event]:
        for call in self.calls:
            yield call.whole(self.message)
        data: dict[str, Any] = {"message": self.message}
        if self.reason:
            data["reason"] = self.reason
        if usage is not None:
            data["usage"] = _usage(usage)
        yield "model_finished", data


class _Call:
    """A call of a tool, whose arguments come in pieces."""

    def __init__(self, call: str, tool: str) -> None:
        self.call = call
        self.tool = tool
        self.text = ""

    def piece(self, text: str, message: str) -> Event:
        self.text += text
        data = {"call": self.call, "tool": self.tool, "text": text, "message": message}
        return "tool_call_delta", data

    def whole(self, message: str) -> Event:
        data = {"call": self.call, "tool": self.tool, "arguments": _value(self.text)}
        return "tool_call", {**data, "message": message}


class _Chat:
    """Chunks of chat completions."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None

    def feed(self, chunk: Any) -> Iterator[Event]:
        self._usage = getattr(chunk, "usage", None) or self._usage
        for choice in chunk.choices:
            found = self._choices.get(choice.index)
            if found is None:
                message = f"{chunk.id}:{choice.index}" if choice.index else str(chunk.id)
                found = self._choices[choice.index] = _Choice(message, str(chunk.model))
                yield "model_started", {"message": found.message, "model": found.model}
            if choice.delta is not None:  # some servers leave it out where an answer ends
                yield from _delta(choice.delta, found)
            found.reason = choice.finish_reason or found.reason

    def rest(self) -> Iterator[Event]:
        # The use of the whole comes in a chunk of its own, after the last choice has ended.
        for choice in self._choices.values():
            yield from choice.ended(self._usage)
            self._usage = None


def _delta(delta: Any, choice: _Choice) -> Iterator[Event]:
    # Servers that show their reasoning name it in one of two ways, beyond OpenAI's own fields.
    for name in ("reasoning_content", "reasoning"):
        text = getattr(delta, name, None)
        if isinstance(text, str) and text:
            yield "thinking", {"text": text, "message": choice.message}
            break
    if text := delta.content or getattr(delta, "refusal", None):
        yield "token", {"text": text, "message": choice.message}
    for piece in delta.tool_calls or ():
        call = choice.call_of(piece)
        if piece.function is not None and piece.function.arguments:
            yield call.piece(piece.function.arguments, choice.message)


class _Responses:
    """Events of the Responses interface; an item of its output is known by its id."""

    def __init__(self) -> None:
        self._response = ""
        self._calls: dict[str, _Call] = {}

    def feed(self, event: Any) -> Iterator[Event]:
        match event.type:
            case "response.created":
                self._response = str(event.response.id)
                model = str(event.response.model)
                yield "model_started", {"message": self._response, "model": model}
            case "response.output_text.delta" | "response.refusal.delta":
                yield "token", {"text": event.delta, "message": self._response}
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                yield "thinking", {"text": event.delta, "message": self._response}
            case "response.function_call_arguments.delta" if event.item_id in self._calls:
                yield self._calls[event.item_id].piece(event.delta, self._response)
            case "response.output_item.added":
                self._added(event.item)
            case "response.output_item.done":
                yield from self._done(event.item)
            case "response.completed" | "response.incomplete":
                yield self._ended(event.response)
            case "response.failed" | "error":
                raise ModelError(_failure(event))

    def _added(self, item: Any) -> None:
        if item.type == "function_call":
            self._calls[item.id or item.call_id] = _Call(item.call_id, item.name)

    def _done(self, item: Any) -> Iterator[Event]:
        if item.type == "function_call":
            self._calls.pop(item.id or item.call_id, None)
            call = _Call(item.call_id, item.name)
            call.text = item.arguments
            yield call.whole(self._response)
        elif item.type not in {"message", "reasoning"}:
            # A tool that the model's side has run: a search, code, a picture …
            yield "output_item", {"item": item, "message": self._response}

    def _ended(self, response: Any) -> Event:
        data: dict[str, Any] = {"message": self._response}
        details = getattr(response, "incomplete_details", None)
        data["reason"] = getattr(details, "reason", None) or response.status
        if getattr(response, "usage", None) is not None:
            data["usage"] = _usage(response.usage)
        return "model_finished", data


def _failure(event: Any) -> str:
    """What the model says of it: an event of its own, or the response that has failed."""
    error = getattr(getattr(event, "response", event), "error", None) or event
    return getattr(error, "message", None) or "the answer has failed"


def _usage(usage: Any) -> dict[str, Any]:
    """What was used, by the same names for both interfaces."""
    read = getattr(usage, "input_tokens", None), getattr(usage, "output_tokens", None)
    older = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    used = [new if new is not None else old for new, old in zip(read, older, strict=True)]
    return {
        "input_tokens": used[0],
        "output_tokens": used[1],
        "total_tokens": getattr(usage, "total_tokens", None),
    }


def _value(text: str) -> Any:
    """The arguments of a call; a model may write what is no JSON, and then it is told as text."""
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return text
