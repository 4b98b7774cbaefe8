"""What a run can be made of: whatever a source yields, as events.

Pure but for the iterating: items in, types and data out. Who publishes them, and how that ends, is
said elsewhere.
"""

from __future__ import annotations

import codecs
import contextlib
import inspect
import json
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from holdfast.streams.event import StreamEvent
from holdfast.streams.event_text import Event, EventText

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from holdfast.streams.publishing.publisher import RunPublisher

Made: TypeAlias = tuple[str, Any]
"""The type and the data of an event to be published."""

Source: TypeAlias = (
    "Callable[[RunPublisher], Awaitable[object] | AsyncIterator[Any]] | AsyncIterator[Any]"
)
"""A coroutine function of the publisher, or an asynchronous iterator of what the events say."""

EVENT_STREAM = "text/event-stream"


def check_source(source: object) -> None:
    """Refuse what no run can be made of.

    Raises:
        TypeError: it is neither a coroutine function nor an asynchronous iterator.
    """
    if inspect.iscoroutine(source):
        source.close()
        raise TypeError("give the coroutine function itself: it is called with the publisher")
    if not (callable(source) or hasattr(source, "__aiter__")):
        raise TypeError(
            "a run is made of a coroutine function of its publisher, or of an asynchronous"
            f" iterator; {type(source).__name__} is neither"
        )


async def feed(publisher: RunPublisher, source: Source, media_type: str | None = None) -> None:
    """Publish what *source* has to say, to its end or the run's.

    Args:
        media_type: what ``str`` and ``bytes`` are: the text of an event stream where this says
            so, else each is the data of a ``message``.
    """
    said: Any = source(publisher) if not hasattr(source, "__aiter__") else source
    if not hasattr(said, "__aiter__"):
        await said
        return
    text = _reader(media_type)
    async with _closing(said):
        async for item in said:
            for kind, data in _events(item, text):
                await publisher.emit(kind, data)
        for kind, data in text.rest():
            await publisher.emit(kind, data)


async def discard(source: object) -> None:
    """Let go of a source that is not needed: the run is published by somebody else."""
    async with _closing(source):
        pass


def _events(item: Any, text: _Text) -> Iterator[Made]:
    if isinstance(item, StreamEvent):
        yield item.type, item.data
    elif isinstance(item, str | bytes | bytearray | memoryview):
        yield from text.feed(item if isinstance(item, str) else bytes(item))
    elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        yield cast("Made", item)
    else:
        yield "message", item


class _Text(Protocol):
    def feed(self, chunk: str | bytes) -> Iterator[Made]: ...

    def rest(self) -> Iterable[Made]: ...


def _reader(media_type: str | None) -> _Text:
    kind = (media_type or "").partition(";")[0].strip().lower()
    return EventStreamText() if kind == EVENT_STREAM else _Messages()


class _Messages:
    """Each piece of text is a message; bytes are UTF-8, cut wherever they were."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, chunk: str | bytes) -> Iterator[Made]:
        text = chunk if isinstance(chunk, str) else self._decoder.decode(chunk)
        if text:
            yield "message", text

    def rest(self) -> Iterator[Made]:
        left = self._decoder.decode(b"", final=True)
        if left:
            yield "message", left


class EventStreamText:
    """The events of an event stream's text, cut into pieces anywhere.

    Data that is JSON becomes its value; other data is text. Ids and reconnect times are left out:
    a run has its own.
    """

    def __init__(self) -> None:
        self._text = EventText()

    def feed(self, chunk: str | bytes) -> Iterator[Made]:
        """Return the events that *chunk* completes."""
        for each in self._text.feed(chunk):
            if isinstance(each, Event):
                yield each.kind, _value(each.text)

    def rest(self) -> Iterable[Made]:
        """Return nothing: a block without its blank line is no event."""
        return ()


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> Any:
    # Python reads NaN and Infinity, which JSON has not (RFC 8259 section 6): it is text.
    raise ValueError(name)


@contextlib.asynccontextmanager
async def _closing(source: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if hasattr(source, "aclose"):
            await source.aclose()
