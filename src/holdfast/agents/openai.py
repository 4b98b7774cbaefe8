"""What a model with OpenAI's interface streams, chat completions or responses, as a run's source.

Known by its attributes: no ``openai`` is imported, so that whatever has the same shape will do. One
translation, pure, for both interfaces.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

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


_THOUGHTS = ("reasoning_content", "reasoning")
"""How servers that show their reasoning name it, beyond OpenAI's own fields."""
_SAYINGS = ("content", "refusal", "tool_calls", "function_call", *_THOUGHTS)
_CALLED = {"function_call", "custom_tool_call"}


class _Translation:
    """Either interface, by what the items look like."""

    def __init__(self) -> None:
        self._chat = _Chat()
        self._responses = _Responses()

    def feed(self, item: Any) -> Iterator[Event]:
        kind = getattr(item, "type", None)
        if kind == "chunk":  # of the streaming helper, which tells each thing a second time
            yield from self._chat.feed(item.chunk)
        elif hasattr(item, "choices"):
            yield from self._chat.feed(item)
        elif isinstance(kind, str) and (kind.startswith("response.") or kind == "error"):
            yield from self._responses.feed(item)

    def rest(self) -> Iterator[Event]:
        yield from self._chat.rest()


class _Choice:
    """One answer of a chat completion, of which there may be several at once."""

    def __init__(self, completion: Any, message: str) -> None:
        self.completion = completion
        self.message = message
        self.calls: list[_Call] = []
        self.reason: str | None = None
        self._latest: dict[int | None, _Call] = {}

    def call_of(self, piece: Any) -> tuple[_Call, Any]:
        """Return the call that a piece is of, and what it says of the arguments."""
        index, identity = _part(piece, "index"), _part(piece, "id")
        function, custom = _part(piece, "function"), _part(piece, "custom")
        name = _part(function or custom, "name") or ""
        arguments = _part(function, "arguments") if function else _part(custom, "input")
        call = self._latest.get(index)
        if call is None or _is_another(call, name, identity, arguments):
            identity = identity or f"{self.message}:{len(self.calls)}"
            call = self._latest[index] = _Call(identity, name)
            self.calls.append(call)
        call.tool = call.tool or name
        return call, arguments

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

    def piece(self, arguments: Any, message: str) -> Event:
        # Not every server writes them as text.
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        self.text += text
        data = {"call": self.call, "tool": self.tool, "text": text, "message": message}
        return "tool_call_delta", data

    def whole(self, message: str) -> Event:
        data = {"call": self.call, "tool": self.tool, "arguments": _value(self.text)}
        return "tool_call", {**data, "message": message}


def _is_another(call: _Call, name: str, identity: str | None, arguments: Any) -> bool:
    """Whether a piece begins another call. Not every server counts the calls of one answer."""
    if not name:
        return False
    if identity:
        return bool(identity != call.call)
    whole = call.text and not isinstance(_value(call.text), str)
    return bool(whole and arguments and str(arguments).strip())


class _Chat:
    """Chunks of chat completions."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None

    def feed(self, chunk: Any) -> Iterator[Event]:
        for choice in _part(chunk, "choices") or ():
            delta = _part(choice, "delta")  # some servers leave it out where an answer ends
            index, completion = _part(choice, "index") or 0, _part(chunk, "id")
            found = self._choices.get(index)
            if found is not None and _is_next(found, completion, delta):
                yield from self.rest()
                found = None
            if found is None:
                message = str(completion or uuid4().hex) + (f":{index}" if index else "")
                found = self._choices[index] = _Choice(completion, message)
                yield _started(message, _part(chunk, "model"))
            yield from _delta(delta, found)
            found.reason = _part(choice, "finish_reason") or found.reason
        self._usage = _part(chunk, "usage") or self._usage

    def rest(self) -> Iterator[Event]:
        # The use of the whole comes in a chunk of its own, after the last choice has ended.
        for choice in self._choices.values():
            yield from choice.ended(self._usage)
            self._usage = None
        self._choices = {}


def _is_next(choice: _Choice, completion: Any, delta: Any) -> bool:
    """Whether the answer has ended, and an agent that asks again in one stream hands on the next.

    Some servers name each chunk anew, and some say how an answer ends in all of its chunks.
    """
    return bool(choice.reason and completion != choice.completion and _says(delta))


def _says(delta: Any) -> bool:
    return any(_part(delta, name) for name in _SAYINGS)


def _delta(delta: Any, choice: _Choice) -> Iterator[Event]:
    for name in _THOUGHTS:
        text = _part(delta, name)
        if isinstance(text, str) and text:
            yield "thinking", {"text": text, "message": choice.message}
            break
    for kind, text in _content(_part(delta, "content") or _part(delta, "refusal")):
        yield kind, {"text": text, "message": choice.message}
    called = _part(delta, "function_call")  # as a call was told before there were several
    for piece in [*(_part(delta, "tool_calls") or ()), *([{"function": called}] if called else ())]:
        if piece is None:
            continue
        call, arguments = choice.call_of(piece)
        if arguments:
            yield call.piece(arguments, choice.message)


def _content(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the text of a piece of an answer, which some servers give in typed parts."""
    if isinstance(content, str):
        if content:
            yield "token", content
        return
    for part in content if isinstance(content, list) else ():
        if isinstance(text := _part(part, "text"), str) and text:
            yield "token", text
        thought = _part(part, "thinking")
        for _, text in _content(thought):
            yield "thinking", text


class _Responses:
    """Events of the Responses interface; an item of its output is known by its id."""

    def __init__(self) -> None:
        self._response = uuid4().hex  # until it is named, in a stream that is read from its middle
        self._open: str | None = None
        self._told: Counter[str] = Counter()
        self._calls: dict[str, _Call] = {}

    def feed(self, event: Any) -> Iterator[Event]:
        match event.type:
            case "response.created" | "response.queued" | "response.in_progress":
                yield from self._started(event.response)
            case "response.output_text.delta" | "response.refusal.delta":
                yield "token", {"text": event.delta, "message": self._response}
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                yield "thinking", {"text": event.delta, "message": self._response}
            case (
                "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta"
            ) if event.item_id in self._calls:
                yield self._calls[event.item_id].piece(event.delta, self._response)
            case "response.output_item.added":
                self._added(event.item)
            case "response.output_item.done":
                yield from self._done(event.item)
            case "response.completed" | "response.incomplete":
                yield self._ended(event.response)
            case "response.failed" | "error":
                raise ModelError(_failure(event))

    def _started(self, response: Any) -> Iterator[Event]:
        name = str(response.id or self._open or uuid4().hex)
        if self._open == name:
            return  # it has waited in a queue, or is told once more that it goes on
        self._open = name
        self._told[name] += 1
        # Of the answers of an agent, some libraries name each alike.
        again = self._told[name]
        self._response = name if again == 1 else f"{name}:{again}"
        yield _started(self._response, _part(response, "model"))

    def _added(self, item: Any) -> None:
        if item.type in _CALLED:
            self._calls[item.id or item.call_id] = _Call(item.call_id, item.name)

    def _done(self, item: Any) -> Iterator[Event]:
        if item.type in _CALLED:
            self._calls.pop(item.id or item.call_id, None)
            data = {"call": item.call_id, "tool": item.name, "arguments": _arguments(item)}
            yield "tool_call", {**data, "message": self._response}
        elif item.type not in {"message", "reasoning"}:
            # A tool that the model's side has run: a search, code, a picture …
            yield "output_item", {"item": item, "message": self._response}

    def _ended(self, response: Any) -> Event:
        self._open = None
        data: dict[str, Any] = {"message": self._response}
        details = getattr(response, "incomplete_details", None)
        if reason := getattr(details, "reason", None) or response.status:
            data["reason"] = reason
        if getattr(response, "usage", None) is not None:
            data["usage"] = _usage(response.usage)
        return "model_finished", data


def _arguments(item: Any) -> Any:
    """What a function is called with; the input of a custom tool is text of whatever kind."""
    if item.type == "custom_tool_call":
        return item.input
    return _value(item.arguments)


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


def _started(message: str, model: Any) -> Event:
    return "model_started", {"message": message, **({"model": str(model)} if model else {})}


def _part(of: Any, name: str) -> Any:
    """What OpenAI's client has no model for is a dictionary; what a server left out is missing."""
    return of.get(name) if isinstance(of, dict) else getattr(of, name, None)


def _value(text: Any) -> Any:
    """The arguments of a call; a model may write what is no JSON, and then it is told as text."""
    if not isinstance(text, str):
        return text or {}
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return text
