"""One key of a session, read from its store or written to it at once, outside the commit.

What ``verbs.py`` is made of: when and how often lies there, what is atomic in the stores.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast import signals
from holdfast.errors import SessionTooLate, SessionUnavailable
from holdfast.sessions.lifecycle import Command, Notice, Standing
from holdfast.sessions.request import observed
from holdfast.sessions.request.commit import TOO_LATE, gone_if_corrupt, note_outcome
from holdfast.sessions.store import Change, Outcome, Record

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from holdfast.sessions.request.exchange import Exchange

_T = TypeVar("_T")


def can_swap(exchange: Exchange, key: str) -> bool:
    """Whether *key* can be changed in the store at once, else by a plain write.

    Raises:
        SessionTooLate: a plain write would have no prospect: the response has started.
        SessionUnavailable: the value cannot be known while Redis is away.
    """
    exchange.check_write()
    terms, stale = exchange.setup.terms, exchange.degraded == "stale"
    if stale and key in terms.fresh_keys:
        exchange.refuse_unavailable()
    # A change of user changes the secret too, and that is the commit's business.
    plain = exchange.standing is not Standing.FOUND or key in terms.user_keys
    if plain and exchange.started and exchange.standing is not Standing.OVER:
        new = exchange.standing is Standing.NEW
        raise SessionTooLate(TOO_LATE[Notice.TOO_LATE if new else Notice.USER_TOO_LATE])
    return not plain


def raw(exchange: Exchange, key: str) -> tuple[bytes | None, bool]:
    """Return the JSON of a key's value here, and whether the store holds the same."""
    return exchange.ledger.raw(key, exchange.session)


def checked(exchange: Exchange, key: str, value: Any) -> bytes:
    """Return the JSON of *value*, once it may be stored. See :meth:`Ledger.note`."""
    return exchange.ledger.note({key: value}, exchange.session)[key]


async def stored(exchange: Exchange, key: str) -> bytes | Outcome | None:
    """Ask the store for one value; ``GONE`` where the session is no more."""
    idle = exchange.setup.terms.idle_timeout
    loading = exchange.setup.store.load(exchange.held().key, idle_timeout=idle)
    found = await _asked(exchange, gone_if_corrupt(exchange, loading))
    return found.fields.get(key) if isinstance(found, Record) else Outcome.GONE


async def swap(exchange: Exchange, change: Change) -> Outcome:
    """Have the store apply *change* now."""
    idle = exchange.setup.terms.idle_timeout
    saving = exchange.setup.store.save(exchange.held().key, change, idle_timeout=idle)
    return await _asked(exchange, _observed(exchange, gone_if_corrupt(exchange, saving)))


async def increment(exchange: Exchange, key: str, by: int) -> int | Outcome:
    """Have the store add to one value now."""
    idle = exchange.setup.terms.idle_timeout
    adding = exchange.setup.store.increment(exchange.held().key, key, by, idle_timeout=idle)
    return await _asked(exchange, _observed(exchange, gone_if_corrupt(exchange, adding)))


def _observed(exchange: Exchange, saving: Awaitable[_T]) -> Awaitable[_T]:
    return observed.save(exchange, saving) if signals.observers else saving


async def _asked(exchange: Exchange, asking: Awaitable[_T]) -> _T:
    try:
        return await asking
    except SessionUnavailable as error:
        signals.count("session_refused")
        raise exchange.setup.unavailable(str(error)) from error


def note_stored(exchange: Exchange, key: str, raw: bytes, value: Any) -> None:
    """Note that the store holds *raw* now, which is *value*."""
    session = exchange.session
    session.accessed = session.modified = True
    dict.__setitem__(session, key, value)
    if exchange.standing is Standing.FOUND and exchange.record is not None:
        exchange.ledger.settle({key: raw}, ())
        exchange.record = exchange.record.after(Change({key: raw}), time.time())


def note_gone(exchange: Exchange, outcome: Outcome) -> None:
    """Note that a write of one key found the session no more."""
    note_outcome(exchange, Command.SAVE, outcome, Change({"": b""}), exchange.user)
