"""A session store whose every verb can be made to fail: what an application does when its does."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import anyio

from holdfast.errors import SessionUnavailable
from holdfast.sessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from holdfast.sessions.store import Change, Missing, Outcome, Record, SessionKey

T = TypeVar("T")

VERBS = ("load", "create", "save", "touch", "delete")


def _unavailable() -> Exception:
    return SessionUnavailable("made to fail by a test")


class FaultyStore(SessionStore):
    """Another store, behind faults that a test turns on and off.

    Each method takes the verbs it is about (``load``, ``create``, ``save``, ``touch``,
    ``delete``; none: all of them) and for how many calls it holds (``None``: until :meth:`heal`).

    Args:
        store: what does the work.

    Attributes:
        calls: how often each verb was asked for, failed ones included.
    """

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self.heal()

    def __repr__(self) -> str:
        return f"<FaultyStore around {self.store!r}>"

    @property
    def writable(self) -> bool:
        """As the store behind says: a fault comes as a surprise."""
        return self.store.writable

    def fail(
        self,
        *verbs: str,
        times: int | None = None,
        error: Callable[[], Exception] = _unavailable,
    ) -> None:
        """Raise *error* (default ``SessionUnavailable``) and leave the store behind unasked."""
        self._set(self._failing, verbs, times, error)

    def lose_answers(
        self,
        *verbs: str,
        times: int | None = None,
        error: Callable[[], Exception] = _unavailable,
    ) -> None:
        """Do what was asked, and raise *error* all the same: a network that died in between."""
        self._set(self._losing, verbs, times, error)

    def delay(self, seconds: float, *verbs: str) -> None:
        """Wait *seconds* before each call."""
        self._delays.update(dict.fromkeys(_known(verbs), seconds))

    def heal(self) -> None:
        """Turn every fault off."""
        self._failing: dict[str, tuple[int | None, Callable[[], Exception]]] = {}
        self._losing: dict[str, tuple[int | None, Callable[[], Exception]]] = {}
        self._delays: dict[str, float] = {}

    def _set(
        self,
        faults: dict[str, tuple[int | None, Callable[[], Exception]]],
        verbs: tuple[str, ...],
        times: int | None,
        error: Callable[[], Exception],
    ) -> None:
        faults.update(dict.fromkeys(_known(verbs), (times, error)))

    async def _ask(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls[verb] += 1
        if verb in self._delays:
            await anyio.sleep(self._delays[verb])
        _raise_due(self._failing, verb)
        answer = await call()
        _raise_due(self._losing, verb)
        return answer

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        """See :meth:`SessionStore.load`."""
        return await self._ask("load", lambda: self.store.load(key, idle_timeout=idle_timeout))

    async def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float = 0.0,
    ) -> Outcome:
        """See :meth:`SessionStore.create`."""
        return await self._ask(
            "create",
            lambda: self.store.create(key, fields, max_age=max_age, idle_timeout=idle_timeout),
        )

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        """See :meth:`SessionStore.save`."""
        return await self._ask(
            "save", lambda: self.store.save(key, change, idle_timeout=idle_timeout)
        )

    async def touch(
        self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0
    ) -> Outcome:
        """See :meth:`SessionStore.touch`."""
        return await self._ask(
            "touch", lambda: self.store.touch(key, idle_timeout=idle_timeout, interval=interval)
        )

    async def delete(self, id_hash: str) -> Outcome:
        """See :meth:`SessionStore.delete`."""
        return await self._ask("delete", lambda: self.store.delete(id_hash))

    async def flush(self) -> None:
        """See :meth:`SessionStore.flush`."""
        await self.store.flush()


def _known(verbs: tuple[str, ...]) -> tuple[str, ...]:
    for verb in verbs:
        if verb not in VERBS:
            raise ValueError(f"a session store has no {verb!r}, only {', '.join(VERBS)}")
    return verbs or VERBS


def _raise_due(faults: dict[str, tuple[int | None, Callable[[], Exception]]], verb: str) -> None:
    times, error = faults.get(verb, (0, _unavailable))
    if times is not None and times <= 0:
        return
    if times is not None:
        faults[verb] = (times - 1, error)
    raise error()
