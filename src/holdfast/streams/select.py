"""Which store and hub serve: chosen from the settings once, and kept where everybody finds them."""

from __future__ import annotations

import asyncio
import atexit
import logging
import weakref
from typing import TYPE_CHECKING

from holdfast.streams.fanout.hub import Hub
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.runtime import Runtime
    from holdfast.streams.store import EventStore
    from holdfast.streams.stores.redis import RedisEventStore

log = logging.getLogger("holdfast.streams")


def default_store(runtime: Runtime) -> EventStore:
    """Return the one event store of *runtime*: Redis where a URL is set, else memory."""
    return runtime.once("event_store", lambda: _make_store(runtime))


def _make_store(runtime: Runtime) -> EventStore:
    settings, link = runtime.settings, runtime.link
    if link is not None:
        from holdfast.streams.stores.redis import RedisEventStore

        store = RedisEventStore(link, settings)
        tell = _teller(weakref.ref(store))

        async def tell_at_shutdown() -> None:
            atexit.unregister(tell)
            tell()

        runtime.on_flush(tell_at_shutdown)
        # A worker that is done closes nothing.
        atexit.register(tell)
        return store
    settings.check_workers()
    log.warning(
        "Event streams are kept in the memory of this process: a restart ends them, and no other "
        "process sees them. Set HOLDFAST_REDIS_URL to share and keep them."
    )
    return MemoryEventStore(
        maxlen=settings.stream_maxlen,
        max_run_bytes=settings.stream_max_run_bytes,
        max_event_bytes=settings.stream_max_event_bytes,
        retention=settings.stream_retention,
        enabled=settings.stream_enabled,
        rollout=settings.stream_rollout,
    )


def _teller(reference: weakref.ref[RedisEventStore]) -> Callable[[], None]:
    told = 0

    def tell() -> None:
        # Each middleware of an application has its say when that shuts down.
        nonlocal told
        store = reference()
        events = store.journalled if store is not None else 0
        if events > told:
            told, fields = events, {"events_lost": events}
            log.warning("%d events that wait for Redis end with this process", events, extra=fields)

    return tell


def hubs_of(store: EventStore) -> dict[asyncio.AbstractEventLoop, Hub]:
    """Return the hubs that read *store*, by event loop."""
    # The store keeps them: each knows its store, so a table here would keep every store for ever.
    hubs: dict[asyncio.AbstractEventLoop, Hub] = vars(store).setdefault("_hubs", {})
    return hubs


def hub_of(store: EventStore) -> Hub:
    """Return the hub that reads *store* for the running event loop."""
    hubs = hubs_of(store)
    loop = asyncio.get_running_loop()
    hub = hubs.get(loop)
    if hub is None:
        # Loops of other threads come and go meanwhile: list() is one step, pop() has one winner.
        for each in list(hubs):
            gone = hubs.pop(each, None) if each.is_closed() else None
            if gone is not None:
                gone.release()
        hub = hubs[loop] = Hub(store)
    return hub


def forget_hubs(store: EventStore) -> list[Hub]:
    """Return the hubs that read *store*, which in a forked child are the parent's, and drop them.

    They must not be touched, and are to be kept: what they hold is still used where they belong.
    """
    hubs = hubs_of(store)
    found = list(hubs.values())
    hubs.clear()
    return found


def stop_hubs(store: EventStore) -> None:
    """Have every stream from *store* end, on all event loops; any thread may call."""
    for hub in list(hubs_of(store).values()):
        hub.stop_soon()


async def close_hubs(store: EventStore) -> None:
    """End every stream that the running event loop serves from *store*."""
    hub = hubs_of(store).pop(asyncio.get_running_loop(), None)
    if hub is not None:
        await hub.aclose()
