"""Any store for code that cannot await: each verb runs to its end in the calling thread.

The stores are written once. Ours wait for nothing but Redis, and outside an event loop they ask it
over the thread's own connection, so that a verb never suspends: it is driven to its end in one
step. No policy is here, and no session.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from holdfast.sessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from holdfast.sessions.store import Change, Missing, Outcome, Record, SessionKey

_T = TypeVar("_T")

_blocking: ContextVar[bool] = ContextVar("holdfast.sessions.blocking", default=False)


#: Returns whether what runs now has to wait in its thread, because nobody awaits it.
blocking: Callable[[], bool] = _blocking.get


def driven(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run *coroutine*, which asks :func:`blocking` wherever it waits, to its end.

    Raises:
        RuntimeError: it suspended all the same.
    """
    token = _blocking.set(True)
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    finally:
        _blocking.reset(token)
    coroutine.close()
    raise RuntimeError("this waits for an event loop, and was called without one")


async def pause(seconds: float) -> None:
    """Wait, in whichever way this is run."""
    if blocking():
        time.sleep(seconds)  # noqa: ASYNC251 - the thread is ours
    else:
        await anyio.sleep(seconds)


class SyncSessionStore:
    """A :class:`SessionStore` with plain verbs, for threads without an event loop.

    They are those of the contract, with its words and errors. A store that says nothing of itself
    (``waits_in_place``) gets an event loop of its own for each call.

    Args:
        store: the store, which may serve event loops at the same time.
    """

    def __init__(self, store: SessionStore) -> None:
        self.store = store

    def __repr__(self) -> str:
        return f"<SyncSessionStore of {self.store!r}>"

    @property
    def writable(self) -> bool:
        """See :attr:`SessionStore.writable`."""
        return self.store.writable

    def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        """See :meth:`SessionStore.load`."""
        return self._run(self.store.load(key, idle_timeout=idle_timeout))

    def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float = 0.0,
    ) -> Outcome:
        """See :meth:`SessionStore.create`."""
        creating = self.store.create(key, fields, max_age=max_age, idle_timeout=idle_timeout)
        return self._run(creating)

    def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        """See :meth:`SessionStore.save`."""
        return self._run(self.store.save(key, change, idle_timeout=idle_timeout))

    def increment(
        self, key: SessionKey, name: str, by: int, *, idle_timeout: float = 0.0
    ) -> int | Outcome:
        """See :meth:`SessionStore.increment`."""
        return self._run(self.store.increment(key, name, by, idle_timeout=idle_timeout))

    def touch(self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0) -> Outcome:
        """See :meth:`SessionStore.touch`."""
        return self._run(self.store.touch(key, idle_timeout=idle_timeout, interval=interval))

    def delete(self, id_hash: str) -> Outcome:
        """See :meth:`SessionStore.delete`."""
        return self._run(self.store.delete(id_hash))

    def flush(self) -> None:
        """See :meth:`SessionStore.flush`."""
        self._run(self.store.flush())

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return driven(coroutine) if self.store.waits_in_place else _on_a_loop(coroutine)


def _on_a_loop(coroutine: Coroutine[Any, Any, _T]) -> _T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # An async view of a synchronous framework: its thread has a loop, which waits for us.
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(asyncio.run, coroutine).result()


def waiting_in_place(store: SessionStore) -> SessionStore:
    """Return *store*, or one over it, whose verbs wait in their thread where nobody awaits."""
    return store if store.waits_in_place else _LoopPerVerb(store)


class _LoopPerVerb(SessionStore):
    """A store that waits for an event loop, which gets one of its own for each verb.

    Not where a loop runs that awaits the verb itself: that one is not to stand still meanwhile.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return repr(self._store)

    @property
    def waits_in_place(self) -> bool:
        return True

    @property
    def writable(self) -> bool:
        return self._store.writable

    async def load(self, key: SessionKey, **options: Any) -> Record | Missing:
        return await _done(self._store.load(key, **options))

    async def create(self, key: SessionKey, fields: Mapping[str, bytes], **options: Any) -> Outcome:
        return await _done(self._store.create(key, fields, **options))

    async def save(self, key: SessionKey, change: Change, **options: Any) -> Outcome:
        return await _done(self._store.save(key, change, **options))

    async def increment(self, key: SessionKey, name: str, by: int, **options: Any) -> int | Outcome:
        return await _done(self._store.increment(key, name, by, **options))

    async def touch(self, key: SessionKey, **options: Any) -> Outcome:
        return await _done(self._store.touch(key, **options))

    async def delete(self, id_hash: str) -> Outcome:
        return await _done(self._store.delete(id_hash))

    async def flush(self) -> None:
        await _done(self._store.flush())


async def _done(verb: Coroutine[Any, Any, _T]) -> _T:
    return await verb if _is_awaited() else _on_a_loop(verb)


def _is_awaited() -> bool:
    """Whether an asyncio loop runs this, and nobody drives it."""
    if blocking():
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
