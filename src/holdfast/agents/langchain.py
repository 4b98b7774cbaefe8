"""LangChain and LangGraph: a callback handler, and their streams as the source of a run.

The doors only: what each signal means is said in ``langchain_runs`` and ``langgraph_parts``. Needs
``langchain-core``, which whoever uses this has already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler

from holdfast.agents.langchain_runs import CALLBACKS, Callbacks, StreamedSteps
from holdfast.agents.langgraph_parts import Parts
from holdfast.agents.plain import sized
from holdfast.agents.source import Events, limit_of, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator

    from holdfast import RunPublisher, SyncRunPublisher
    from holdfast.agents.langchain_messages import Event
    from holdfast.agents.plain import Made


def langchain_events(
    stream: AsyncIterator[Any],
    *,
    stream_mode: str = "updates",
    max_bytes: int | None = None,
) -> Events:
    """Return what a chain or a graph streams as events, for ``start_run`` and ``RunResponse``.

    ``RunResponse(run_id, langchain_events(graph.astream_events(input)))`` makes an agent resumable.
    Where the run has been begun already, the stream is closed and nothing of it runs.

    Args:
        stream: what ``astream_events`` returns (version 2, the default), or a graph's ``astream``
            in whatever modes.
        stream_mode: the ``stream_mode`` that ``astream`` was given, where it was one that is not
            in a list; ``messages`` is seen without that.
        max_bytes: of one event's data as JSON. Longer text becomes several events, another part
            that is too large is replaced by ``{"too_large": <bytes>}``. Default:
            ``HOLDFAST_STREAM_MAX_EVENT_BYTES``.
    """
    return Events(stream, _Streamed(stream_mode), max_bytes)


def langchain_events_sync(
    stream: Iterable[Any],
    *,
    stream_mode: str = "updates",
    max_bytes: int | None = None,
) -> Iterator[Made]:
    """Yield the same of a graph's ``stream`` as ``(type, data)``, for ``SyncRunPublisher.emit``."""
    return read(stream, _Streamed(stream_mode), max_bytes)


class _Streamed:
    """Whichever of the streams it is: an item of ``astream_events`` says what has happened."""

    def __init__(self, stream_mode: str) -> None:
        self._steps = StreamedSteps()
        self._parts = Parts(stream_mode)

    def feed(self, item: Any) -> Iterator[Event]:
        if isinstance(item, dict) and item.keys() >= {"event", "run_id", "data"}:
            return self._steps.feed(item)
        return self._parts.feed(item)

    def rest(self) -> Iterator[Event]:
        return self._parts.rest()


class AsyncRunCallbackHandler(AsyncCallbackHandler):
    """Publishes what happens in ``ainvoke``, ``astream`` … as events of a run.

    ``await graph.ainvoke(input, {"callbacks": [AsyncRunCallbackHandler(run)]})`` inside of
    ``async with RunPublisher(run_id) as run``, which ends the run. An event is published before the
    chain goes on. One that the run does not take raises in the chain: ``RunEnded``,
    ``JournalFull``.

    Args:
        run: where to publish.
        max_bytes: as for :func:`langchain_events`.
    """

    raise_error = True

    def __init__(self, run: RunPublisher, *, max_bytes: int | None = None) -> None:
        self._run = run
        self._said = _Said(max_bytes)


class RunCallbackHandler(BaseCallbackHandler):
    """Publishes what happens in ``invoke``, ``stream`` … as events of a run, without a loop.

    As :class:`AsyncRunCallbackHandler`, inside of ``with SyncRunPublisher(run_id) as run``. Where
    the run is asked to stop, the next event raises ``RunStopped`` in the chain, which the block
    leaves quietly.

    Args:
        run: where to publish.
        max_bytes: as for :func:`langchain_events`.
    """

    raise_error = True

    def __init__(self, run: SyncRunPublisher, *, max_bytes: int | None = None) -> None:
        self._run = run
        self._said = _Said(max_bytes)


class _Said:
    """What each callback says, as events that the run can take."""

    def __init__(self, max_bytes: int | None) -> None:
        self._callbacks = Callbacks()
        self._limit = limit_of(max_bytes)

    def by(self, name: str, args: tuple[Any, ...], about: dict[str, Any]) -> Iterator[Made]:
        for kind, data in getattr(self._callbacks, name)(*args, **about):
            yield from sized(kind, data, self._limit)


def _awaited(name: str) -> Callable[..., Coroutine[Any, Any, None]]:
    async def callback(self: AsyncRunCallbackHandler, *args: Any, **about: Any) -> None:
        for kind, data in self._said.by(name, args, about):
            await self._run.emit(kind, data)

    return callback


def _called(name: str) -> Callable[..., None]:
    def callback(self: RunCallbackHandler, *args: Any, **about: Any) -> None:
        for kind, data in self._said.by(name, args, about):
            self._run.emit(kind, data)

    return callback


# One method for each callback, with and without a loop: they differ in nothing else.
for _name in CALLBACKS:
    setattr(AsyncRunCallbackHandler, _name, _awaited(_name))
    setattr(RunCallbackHandler, _name, _called(_name))
