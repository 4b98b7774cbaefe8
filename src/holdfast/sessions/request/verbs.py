"""``incr`` and ``update_with``: one key, changed in one piece, whoever else is at it.

The flow alone: try, see what became of it, try again. What counts as a sum or a pause is in
``atomic.py``, how one key is written in ``onekey.py``, and what is atomic in the stores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.errors import CorruptData
from holdfast.sessions import atomic
from holdfast.sessions.lifecycle import Standing
from holdfast.sessions.record import decode_value, encode_key
from holdfast.sessions.request import onekey
from holdfast.sessions.store import Change, Outcome
from holdfast.sessions.stores.sync import pause

if TYPE_CHECKING:
    from holdfast.sessions.request.exchange import Exchange

#: From the JSON that is stored, or ``None``, to the new value.
Remake = Callable[[bytes | None], Any]


async def incr(exchange: Exchange, key: str, by: float) -> int | float:
    """See ``Session.incr``."""
    encode_key(key)
    if not atomic.is_number(by):
        raise TypeError(f"incr() adds numbers, not {type(by).__name__}")
    remake = partial(_sum, key, by)
    total: int | float
    if not onekey.can_swap(exchange, key):
        total = await _write(exchange, key, remake)
        return total
    raw, kept = onekey.raw(exchange, key)
    if kept and atomic.fits(by):
        # Checked as any write is, for size and type, by what this request knows of the session.
        onekey.checked(exchange, key, remake(raw))
        value = await onekey.increment(exchange, key, int(by))
        if not isinstance(value, Outcome):
            onekey.note_stored(exchange, key, b"%d" % value, value)
            return value
        if value is not Outcome.CONFLICT:
            total = _dropped(exchange, key, remake(raw), value)
            return total
    total = await _swap(exchange, key, remake)
    return total


async def update_with(exchange: Exchange, key: str, function: Callable[[Any], Any]) -> Any:
    """See ``Session.update_with``."""
    encode_key(key)
    remake = partial(_made, key, function)
    if onekey.can_swap(exchange, key):
        return await _swap(exchange, key, remake)
    return await _write(exchange, key, remake)


async def _write(exchange: Exchange, key: str, remake: Remake) -> Any:
    value = await maybe_await(remake(onekey.raw(exchange, key)[0]))
    session = exchange.session
    session[key] = value
    if exchange.standing is Standing.FOUND:
        await session.save()
    return value


async def _swap(exchange: Exchange, key: str, remake: Remake) -> Any:
    raw, kept = onekey.raw(exchange, key)
    for tried in range(atomic.TRIES):
        value = await maybe_await(remake(raw))
        new = onekey.checked(exchange, key, value)
        # A value that this request wrote before, and did not save, replaces whatever is stored.
        outcome = await onekey.swap(
            exchange, Change({key: new}, expected={key: raw} if kept else {})
        )
        if outcome is not Outcome.CONFLICT:
            if outcome is not Outcome.DONE:
                return _dropped(exchange, key, value, outcome)
            onekey.note_stored(exchange, key, new, value)
            return value
        await pause(atomic.pause(tried))
        found = await onekey.stored(exchange, key)
        if isinstance(found, Outcome):
            return _dropped(exchange, key, value, found)
        raw = found
    raise exchange.setup.unavailable(
        f"others changed session[{key!r}] at each of {atomic.TRIES} tries"
    )


def _dropped(exchange: Exchange, key: str, value: Any, outcome: Outcome) -> Any:
    # As with any write to a session that is gone: it is dropped and told, and is no error.
    onekey.note_gone(exchange, outcome)
    dict.__setitem__(exchange.session, key, value)
    return value


async def maybe_await(made: Any) -> Any:
    """Return *made*, or what it comes to where it can be awaited."""
    return await made if inspect.isawaitable(made) else made


def _made(key: str, function: Callable[[Any], Any], raw: bytes | None) -> Any:
    return function(None if raw is None else _decoded(key, raw))


def _sum(key: str, by: float, raw: bytes | None) -> int | float:
    return atomic.added(key, 0 if raw is None else _decoded(key, raw), by)


def _decoded(key: str, raw: bytes) -> Any:
    try:
        return decode_value(key, raw)
    except CorruptData as error:
        # It was JSON when the session was loaded; nothing can be made of it now.
        raise TypeError(str(error)) from error
