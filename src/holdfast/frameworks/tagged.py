"""The session that Flask and Quart hand to their views: a mapping of the values that Flask knows.

Tuples, bytes, UUIDs, dates and markup are kept as Flask's own sessions keep them, in tagged JSON;
the dict beneath has the JSON, and all that is policy. Nothing here stores anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionMixin

from holdfast.sessions.lifecycle import Standing
from holdfast.sessions.store import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from holdfast.sessions.request.exchange import Exchange
    from holdfast.sessions.session import Session
    from holdfast.sessions.store import Degraded

PERMANENT = "_permanent"

_serializer = TaggedJSONSerializer()
# What JSON carries as it is and nobody can change in place. By type: Markup is a str as well.
_PLAIN = frozenset({str, int, float, bool, type(None)})


class TaggedSession(SessionMixin):
    """A mapping over the session of one request, which is asked for when somebody first looks.

    A change inside a value is kept without ``modified``, which still says what Flask's says.

    Args:
        open_exchange: loads it; called once.

    Attributes:
        exchange: what was opened; ``None`` while nobody looked.
        modified: a key was written, or somebody said so.
        accessed: it was read or written.
        was_permanent: whether the stored session was.
        sent: the response has left, so that no cookie can be set any more.
        spoiled: it could not be stored as it is.
    """

    accessed = False
    modified = False

    def __init__(self, open_exchange: Callable[[], Exchange]) -> None:
        self._open = open_exchange
        self._values: dict[str, Any] = {}
        self.exchange: Exchange | None = None
        self.was_permanent = False
        self.sent = False
        self.spoiled = False
        self._left = False

    @property
    def held(self) -> Session:
        """The dict beneath, opened; looking at it is no access yet."""
        if self.exchange is None:
            self.exchange = exchange = self._open()
            self._held = exchange.session
            exchange.started = exchange.started or self.sent
            self.was_permanent = dict.get(self._held, PERMANENT) is True
        return self._held

    def _looked_at(self) -> Session:
        self.accessed = True
        held = self.held
        held.mark_accessed()
        return held

    def write_back(self) -> None:
        """Put the values that may have changed in place into the dict beneath, as JSON.

        Whether they did is found when it is stored.
        """
        for key, value in self._values.items():
            dict.__setitem__(self.held, key, tagged(value))

    def release(self) -> None:
        """Note that the request is over. See :meth:`Exchange.release`."""
        if self.exchange is not None and not self._left:
            self._left = True
            self.exchange.release()

    # --- the mapping ----------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        held = self._looked_at()
        if key in self._values:
            return self._values[key]
        value = held[key]
        if type(value) in _PLAIN:
            return value
        self._values[key] = value = untagged(value)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.modified = True
        held = self._looked_at()
        if type(value) in _PLAIN:
            held[key] = value
            self._values.pop(key, None)
        else:
            held[key] = tagged(value)
            self._values[key] = value

    def __delitem__(self, key: str) -> None:
        held = self._looked_at()
        del held[key]
        self._values.pop(key, None)
        self.modified = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._looked_at())

    def __len__(self) -> int:
        return len(self._looked_at())

    def __contains__(self, key: object) -> bool:
        return key in self._looked_at()

    def clear(self) -> None:
        """Remove everything. A stored session that is left empty is destroyed."""
        self._looked_at().clear()
        self._values.clear()
        self.modified = True

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of the same data."""
        return dict(self)

    def __repr__(self) -> str:
        # Values are what a log, a traceback or a debugger must not show (CWE-532).
        inside = "unopened" if self.exchange is None else repr(self._held)
        return f"<{type(self).__name__} {inside}>"

    # --- what ours has besides ------------------------------------------------------------------

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether the store holds nothing of it yet."""
        return self._looked_at().is_new

    is_new = new

    @property
    def id_hash(self) -> str:
        """See :attr:`Session.id_hash`."""
        return self._looked_at().id_hash

    @property
    def created_at(self) -> datetime | None:
        """See :attr:`Session.created_at`."""
        return self._looked_at().created_at

    @property
    def expires_at(self) -> datetime | None:
        """See :attr:`Session.expires_at`."""
        return self._looked_at().expires_at

    @property
    def owner(self) -> str | None:
        """See :attr:`Session.owner`."""
        return self._looked_at().owner

    @property
    def available(self) -> bool:
        """See :attr:`Session.available`."""
        return self._looked_at().available

    @property
    def degraded(self) -> Degraded | None:
        """See :attr:`Session.degraded`."""
        return self._looked_at().degraded

    def regenerate_id(self) -> None:
        """See :meth:`Session.regenerate_id`."""
        self._looked_at().regenerate_id()

    def invalidate(self) -> None:
        """See :meth:`Session.invalidate`."""
        self._looked_at().invalidate()
        self._values.clear()
        self.modified = True

    def _for_a_verb(self, key: str) -> Session:
        """Return the dict beneath, up to date, of which *key* is about to change."""
        held = self._looked_at()
        self.write_back()
        self._values.pop(key, None)
        self.modified = True
        return held


async def is_still_good(exchange: Exchange) -> bool:
    """Whether the browser's credential is the session's newest, as the store says now.

    To send it once more is right only then: it would take the place of a newer one.

    Raises:
        SessionUnavailable: nobody can say.
        CorruptData: what is stored cannot be understood.
    """
    record = exchange.record
    if exchange.standing is not Standing.FOUND or record is None or record.degraded is not None:
        return False
    idle = exchange.setup.terms.idle_timeout
    found = await exchange.setup.store.load(exchange.held().key, idle_timeout=idle)
    return isinstance(found, Record) and found.current


def tagged(value: Any) -> Any:
    """Return *value* in the JSON that Flask's sessions make of it."""
    return value if type(value) in _PLAIN else _serializer.tag(value)


def untagged(value: Any) -> Any:
    """Return what :func:`tagged` made *value* of."""
    if isinstance(value, dict):
        return _serializer.untag({key: untagged(each) for key, each in value.items()})
    if isinstance(value, list):
        return [untagged(each) for each in value]
    return value
