"""What a handler holds: the session as a dict, and the typed way to it.

A :class:`Session` is data and refusals. What is stored, when, and which cookie leaves is decided
in ``lifecycle.py`` and carried out by the exchange behind it; no I/O is here but ``save()``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Never, Self, overload

from holdfast.errors import SessionError
from holdfast.sessions.request import commit, verbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.requests import HTTPConnection

    from holdfast.sessions.request.exchange import Exchange
    from holdfast.sessions.store import Degraded
    from holdfast.sessions.sync_session import SyncSession

#: Where a WSGI application finds its session in the environ.
ENVIRON_KEY = "holdfast.session"

_NO_DEFAULT = object()


class Session(dict[str, Any]):
    """One visitor's session: a dict whose changes are kept, key by key, for the next request.

    Made by the middleware and found at ``request.session`` or by :func:`get_session`. Keys are
    ``str`` and values are what JSON carries. Changes inside a value
    (``session["cart"].append(1)``) are kept as well.

    Attributes:
        accessed: the session was read or written through ``request.session``.
        modified: a top-level key was written.
    """

    accessed: bool = False
    modified: bool = False
    _exchange: Exchange | None = None
    #: Told of each access, where an answer that has started ends with the session once looked at.
    _on_access: Callable[[], object] | None = None

    # --- what Starlette's Session offers --------------------------------------------------------

    def mark_accessed(self) -> None:
        """Note that the answer depends on the session: it gets ``Vary: Cookie``."""
        self.accessed = True
        if self._on_access is not None:
            self._on_access()

    def mark_modified(self) -> None:
        """Note a write.

        Raises:
            SessionUnavailable: the session cannot be written while Redis is away.
        """
        if self._exchange is not None:
            self._exchange.check_write()
        self.mark_accessed()
        self.modified = True

    # --- facts ----------------------------------------------------------------------------------

    @property
    def id_hash(self) -> str:
        """A name for this session that is safe to store and show: stable, and opens nothing."""
        return self._bound().id_hash

    @property
    def is_new(self) -> bool:
        """Whether the store holds nothing of it yet."""
        return self._bound().is_new

    @property
    def created_at(self) -> datetime | None:
        """When it was created (UTC), ``None`` while it is new."""
        record = self._bound().record
        return None if record is None else _utc(record.created_at)

    @property
    def expires_at(self) -> datetime | None:
        """When it ends if nobody comes back (UTC), ``None`` while it is new."""
        end = self._bound().ends_at
        return None if end is None else _utc(end)

    @property
    def owner(self) -> str | None:
        """``user:<id>`` where somebody is logged in, else ``session:<id_hash>``.

        ``None`` while there is nothing to own: a new session without data.
        """
        return self._bound().owner

    @property
    def available(self) -> bool:
        """False where the cookie names a session that cannot be seen while Redis is away."""
        return self._exchange is None or self._exchange.available

    @property
    def degraded(self) -> Degraded | None:
        """``"stale"`` or ``"local"`` while it is served without Redis, else ``None``."""
        record = None if self._exchange is None else self._exchange.record
        return None if record is None else record.degraded

    # --- verbs ----------------------------------------------------------------------------------

    def regenerate_id(self) -> None:
        """Give the browser a new cookie and let every older one die, in one atomic step.

        Call it whenever privileges change. A change of the user key does it by itself. The data
        and ``id_hash`` stay, and the lifetime starts anew.

        Raises:
            SessionTooLate: the response has started, so no cookie can be sent.
            SessionUnavailable: the session cannot be changed while Redis is away.
        """
        self._bound().regenerate()

    def invalidate(self) -> None:
        """Destroy the session, here and in the browser. What is written next starts a new one.

        While Redis is away its end is noted here and carried out when Redis is back.

        Raises:
            SessionUnavailable: Redis is away and nothing can be noted: in ``readonly`` and
                ``closed``, or because as much waits already as may.
        """
        self._bound().invalidate()

    async def save(self) -> None:
        """Store the changes now. The middleware does it by itself before the response starts.

        Raises:
            SessionTooLate: a new session, or a change of user, after the response has started.
            SessionTooLarge: it would exceed ``SESSION_MAX_BYTES``; the stored data is unchanged.
            SessionUnavailable: it cannot be stored while Redis is away.
            TypeError: a value is not JSON.
        """
        await commit.save(self._bound())

    async def incr(self, key: str, by: float = 1) -> int | float:
        """Add *by* to a number, in one piece: of a hundred requests at once, each one counts.

        It is stored when this returns, whatever becomes of the request. Of a session that the
        store does not hold yet, or of the user key, it is a plain write.

        Args:
            key: a key that is not there counts as 0.
            by: an ``int`` or ``float``, negative too.

        Returns:
            The new value.

        Raises:
            TypeError: the stored value or *by* is no number.
            SessionTooLate: the session is new, or *key* names its user, and the response has
                started.
            SessionTooLarge, SessionUnavailable: as :meth:`save`.
        """
        return await verbs.incr(self._bound(), key, by)

    async def update_with(self, key: str, function: Callable[[Any], Any]) -> Any:
        """Replace a value by what *function* makes of it, in one piece.

        If another request changes the value meanwhile, *function* is called again with the newer
        one: it must have no other effect. It may change what it is given and return it.

        Args:
            key: the key.
            function: takes the present value, ``None`` where there is none, and returns the new
                one. It may be a coroutine function.

        Returns:
            The value that is stored now.

        Raises:
            SessionTooLate, SessionTooLarge, TypeError: as :meth:`save` and :meth:`incr`.
            SessionUnavailable: as :meth:`save`, or others changed the value at each of 100 tries.
        """
        return await verbs.update_with(self._bound(), key, function)

    def unreadable(self) -> Session:
        """Return what stands in its place where its data may not be guessed at."""
        return UnreadableSession()

    def _bound(self) -> Exchange:
        if self._exchange is None:
            raise SessionError("this Session was made by hand: only a middleware's can do that")
        return self._exchange

    # --- writing --------------------------------------------------------------------------------

    def _check(self, values: dict[str, Any]) -> None:
        if self._exchange is not None:
            self._exchange.ledger.note(values, self)

    def __setitem__(self, key: str, value: Any) -> None:
        self.mark_modified()
        self._check({key: value})
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.mark_modified()
        super().__delitem__(key)

    def clear(self) -> None:
        """Remove everything. A stored session that is left empty is destroyed."""
        self.mark_modified()
        super().clear()

    def pop(self, key: str, default: Any = _NO_DEFAULT) -> Any:
        """Remove *key* and return its value."""
        # Of one that cannot be seen nobody knows: "it is gone" would be no answer.
        if dict.__contains__(self, key) or not self.available:
            self.mark_modified()
        return super().pop(key) if default is _NO_DEFAULT else super().pop(key, default)

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the last key and its value."""
        if len(self) or not self.available:
            self.mark_modified()
        return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, after setting it to *default* where it was missing."""
        if not dict.__contains__(self, key):
            self.mark_modified()
            self._check({key: default})
        return super().setdefault(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several keys; none is set where one of the values cannot be kept."""
        self.mark_modified()
        values: dict[str, Any] = dict(*args, **kwargs)
        self._check(values)
        super().update(values)

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __repr__(self) -> str:
        # Values are what a log, a traceback or a debugger must not show (CWE-532).
        return f"<{type(self).__name__} keys={sorted(dict.keys(self))}>"

    __str__ = __repr__

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        # Copied or sent elsewhere it is plain data: the exchange belongs to this request alone.
        return dict, (dict(self),)


class UnreadableSession(Session):
    """A session that cannot be seen, where ``SESSION_ON_OUTAGE=closed`` forbids to guess.

    What it says about itself (``available``) can be asked; its data cannot.
    """

    def _refuse(self) -> Never:
        self.accessed = True
        self._bound().refuse_unavailable()

    def __getitem__(self, key: str) -> Any:
        self._refuse()

    def __contains__(self, key: object) -> bool:
        self._refuse()

    def __iter__(self) -> Iterator[str]:
        self._refuse()

    def __len__(self) -> int:  # noqa: PLE0303 - it never returns
        self._refuse()

    def __eq__(self, other: object) -> bool:
        self._refuse()

    def __or__(self, other: Any) -> Any:
        self._refuse()

    __hash__ = None  # type: ignore[assignment]

    def get(self, key: str, default: Any = None) -> Any:
        """Refused, like every access to the data."""
        self._refuse()

    def keys(self) -> Any:
        """Refused, like every access to the data."""
        self._refuse()

    def values(self) -> Any:
        """Refused, like every access to the data."""
        self._refuse()

    def items(self) -> Any:
        """Refused, like every access to the data."""
        self._refuse()

    def copy(self) -> Any:
        """Refused, like every access to the data."""
        self._refuse()

    def pop(self, key: str, default: Any = None) -> Any:
        """Refused, like every access to the data."""
        self._refuse()

    def popitem(self) -> tuple[str, Any]:
        """Refused, like every access to the data."""
        self._refuse()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Refused, like every access to the data."""
        self._refuse()

    def __repr__(self) -> str:
        return "<UnreadableSession: unavailable>"

    __str__ = __repr__


@overload
def get_session(connection: HTTPConnection) -> Session: ...


@overload
def get_session(connection: dict[str, Any]) -> SyncSession: ...


@overload
def get_session(connection: Mapping[str, Any]) -> Session: ...


def get_session(connection: HTTPConnection | Mapping[str, Any]) -> Session:
    """Return the session of a request, WebSocket, ASGI scope or WSGI environ, with its type.

    Starlette types ``request.session`` as a plain dict; wherever a method of :class:`Session` is
    called, this is the way to it. It counts as an access.

    Args:
        connection: a Starlette ``Request``, ``WebSocket`` or ``HTTPConnection``, or the scope; or
            the environ of a WSGI application, whose session is a :class:`SyncSession`.

    Raises:
        SessionError: neither of holdfast's session middlewares is around the application.
    """
    scope = connection if isinstance(connection, dict) else getattr(connection, "scope", connection)
    # What a WSGI server calls its environ has this key in any case (PEP 3333).
    session = scope.get(ENVIRON_KEY if "wsgi.version" in scope else "session")
    if not isinstance(session, Session):
        raise SessionError(
            "there is no session here: add holdfast's SessionMiddleware (on WSGI, its "
            "WSGISessionMiddleware) around the application"
            + (" (another package's is inside it)" if session is not None else "")
        )
    session.mark_accessed()
    return session


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
