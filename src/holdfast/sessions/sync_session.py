"""The session of code that cannot await: the same dict, with plain verbs.

Nothing is decided here: each verb is the asynchronous one, driven to its end in the calling thread.
In a WSGI environ nobody sees who looks the session up, so that the dict itself notes its reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.sessions.session import Session, UnreadableSession
from holdfast.sessions.stores.sync import driven

if TYPE_CHECKING:
    from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView


class SyncSession(Session):
    """A :class:`Session` whose ``save``, ``incr`` and ``update_with`` return when they are done.

    Found at ``environ["holdfast.session"]``, where reading it counts as an access by itself.
    """

    def save(self) -> None:  # type: ignore[override]
        """See :meth:`Session.save`; it blocks the thread."""
        driven(super().save())

    def incr(self, key: str, by: float = 1) -> int | float:  # type: ignore[override]
        """See :meth:`Session.incr`; it blocks the thread."""
        return driven(super().incr(key, by))

    def update_with(self, key: str, function: Callable[[Any], Any]) -> Any:
        """See :meth:`Session.update_with`, but *function* is a plain one; it blocks the thread."""
        return driven(super().update_with(key, function))

    def unreadable(self) -> Session:
        """Return what stands in its place where its data may not be guessed at."""
        return UnreadableSyncSession()


class EnvironSession(SyncSession):
    """A :class:`SyncSession` that anybody may look up, unseen: its reading counts as an access."""

    def __getitem__(self, key: str) -> Any:
        self.accessed = True
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.accessed = True
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self.accessed = True
        return super().__iter__()

    def __len__(self) -> int:
        self.accessed = True
        return super().__len__()

    def __eq__(self, other: object) -> bool:
        self.accessed = True
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Any) -> Any:
        self.accessed = True
        return super().__or__(other)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, or *default*."""
        self.accessed = True
        return super().get(key, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return a view of the keys."""
        self.accessed = True
        return super().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return a view of the values."""
        self.accessed = True
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return a view of keys and values."""
        self.accessed = True
        return super().items()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of the same data."""
        self.accessed = True
        return super().copy()


class UnreadableSyncSession(UnreadableSession, SyncSession):
    """An :class:`UnreadableSession` with plain verbs."""
