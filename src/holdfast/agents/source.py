"""A stream of somebody's library, read as the events of a run: opened late, closed for certain.

It iterates and decides nothing: what an item means, a translation says. The stream may be given
before anything is sent, so that an endpoint that attaches to a run calls no model.
"""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, Protocol, Self

from holdfast.agents.plain import Made, sized

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator


class Translation(Protocol):
    """What items mean, one after the other."""

    def feed(self, item: Any) -> Iterable[tuple[str, dict[str, Any]]]:
        """Return the events that *item* says."""

    def rest(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Return what is to be said once there are no more items."""


class Events:
    """The events of one stream, for ``start_run`` and ``RunResponse``; read once.

    Args:
        stream: an asynchronous iterator; or a coroutine, or a function, that gives one; or a
            context manager of one. It is awaited, called and entered when the events are read.
        max_bytes: of one event's data. Default: ``HOLDFAST_STREAM_MAX_EVENT_BYTES``.
    """

    def __init__(self, stream: Any, translation: Translation, max_bytes: int | None) -> None:
        self._stream = stream
        self._translation = translation
        self._limit = max_bytes
        self._reading: AsyncGenerator[Made, None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Made:
        if self._reading is None:
            self._reading = self._read()
        return await anext(self._reading)

    async def aclose(self) -> None:
        """Close the stream, so that the model stops; one that was not begun is not begun."""
        if self._reading is not None:
            await self._reading.aclose()
        elif inspect.iscoroutine(self._stream):
            self._stream.close()  # it has asked for nothing yet
        elif hasattr(self._stream, "__aiter__"):
            await _close(self._stream)

    async def _read(self) -> AsyncGenerator[Made, None]:
        limit = limit_of(self._limit)
        async with AsyncExitStack() as stack:
            async for item in await _open(self._stream, stack):
                for kind, data in self._translation.feed(item):
                    for made in sized(kind, data, limit):
                        yield made
        for kind, data in self._translation.rest():
            for made in sized(kind, data, limit):
                yield made


def read(stream: Any, translation: Translation, max_bytes: int | None) -> Iterator[Made]:
    """Yield the events of a stream that is read without an event loop, and close it."""
    limit = limit_of(max_bytes)
    with ExitStack() as stack:
        for item in _open_sync(stream, stack):
            for kind, data in translation.feed(item):
                yield from sized(kind, data, limit)
    for kind, data in translation.rest():
        yield from sized(kind, data, limit)


def limit_of(max_bytes: int | None) -> int:
    """Return how large an event may be: as it was said, or as the environment says."""
    if max_bytes is not None:
        return max_bytes
    from holdfast.runtime import runtime

    return runtime().settings.stream_max_event_bytes


async def _open(stream: Any, stack: AsyncExitStack) -> Any:
    if callable(stream) and not hasattr(stream, "__aiter__"):
        stream = stream()
    if inspect.isawaitable(stream):
        stream = await stream
    if not hasattr(stream, "__aiter__") and hasattr(stream, "__aenter__"):
        return await stack.enter_async_context(stream)
    stack.push_async_callback(_close, stream)
    return stream


async def _close(stream: Any) -> None:
    close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    done = close() if close is not None else None
    if inspect.isawaitable(done):
        await done


def _open_sync(stream: Any, stack: ExitStack) -> Any:
    if callable(stream) and not hasattr(stream, "__iter__"):
        stream = stream()
    if not hasattr(stream, "__iter__") and hasattr(stream, "__enter__"):
        return stack.enter_context(stream)
    if hasattr(stream, "close"):
        stack.callback(stream.close)
    return stream
