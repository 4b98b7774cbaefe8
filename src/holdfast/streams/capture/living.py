"""Which processes live, of those that have said that they serve a reader.

Each holds the lease of a run of its own, as whoever publishes a run does. One that was killed can
say no last word: its lease lapses, and with it whoever it served reads no more.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING

from holdfast.errors import RedisUnavailable
from holdfast.forks import watch_forks
from holdfast.streams.capture.ids import is_name, new_name
from holdfast.streams.hold import Hold

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.streams.store import EventStore

_RUN = "captures-by-"
# Of a store that is gone: its process lives, and nobody can ask it any more.
_by_store: weakref.WeakKeyDictionary[EventStore, Living] = weakref.WeakKeyDictionary()


def living_in(store: EventStore) -> Living:
    """Return what *store* knows of the living, this process among them."""
    return _by_store.get(store) or _by_store.setdefault(store, Living(store))


class Living:
    """The processes that live, by one store.

    Args:
        store: where their leases are. It is not kept alive.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = weakref.proxy(store)
        self.forked()
        watch_forks(self)

    def forked(self) -> None:
        """Begin, also in a forked child: the parent's readers are not served here."""
        self._lock = threading.Lock()
        self._hold: Hold | None = None

    async def reader(self) -> str:
        """Return the name of a new reader, which tells that this process serves it.

        Raises:
            JournalFull: Redis is away, and nobody would learn of it.
        """
        hold = await self._held()
        return f"{hold.run_id.removeprefix(_RUN)}.{new_name()}"

    async def still(self, readers: Iterable[str]) -> list[str]:
        """Return those of *readers* whose process lives, or names none.

        Raises:
            RedisUnavailable: nobody can say.
        """
        by = {reader: _process_of(reader) for reader in readers}
        named = [each for each in dict.fromkeys(by.values()) if each is not None]
        told = await asyncio.gather(*(self._store.status(_RUN + each) for each in named))
        gone = {each for each, status in zip(named, told, strict=True) if status != "open"}
        return [reader for reader, process in by.items() if process not in gone]

    async def _held(self) -> Hold:
        """Return the hold of this process, which nobody takes for dead so far."""
        while True:
            hold = self._attended()
            try:
                claim = await self._store.claim(hold)
            except RedisUnavailable:
                # Told when Redis is back, as what reads here is; the lease is taken then.
                if self._store.pending(hold.run_id) is None:
                    await self._store.append(hold.run_id, [self._store.draft("began", None)])
                return hold
            if claim.status == "mine":
                return hold
            # It was away for longer than its lease, with all its threads.
            with self._lock:
                if self._hold is hold:
                    self._hold = None

    def _attended(self) -> Hold:
        # Event loops in several threads may come at once, and a lease lapses with its Hold.
        with self._lock:
            hold = self._hold
            if hold is None:
                hold = Hold(_RUN + new_name(), _not_told)
                self._store.attend(hold)
                self._hold = hold
            return hold


def _process_of(reader: str) -> str | None:
    process, dot, _ = reader.partition(".")
    return process if dot and is_name(process) else None


def _not_told() -> None:
    """Who reads is asked to stop by nobody."""
