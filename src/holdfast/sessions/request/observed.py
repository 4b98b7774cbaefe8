"""A session's load and its save, as they are told to whoever measures them.

Called only where somebody does. What is done is done elsewhere; here it is named when it has been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from holdfast.sessions.cookie import Presented
from holdfast.sessions.lifecycle import Notice, Standing
from holdfast.sessions.store import Missing, Outcome, Record
from holdfast.signals import Operation

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from holdfast.sessions.request.exchange import Exchange

_T = TypeVar("_T")


async def load(exchange: Exchange, loading: Awaitable[None]) -> None:
    """Wait for *loading*, and tell what it found."""
    answer = exchange.answer
    session = answer.credential.key.id_hash if isinstance(answer, Presented) else None
    with Operation("session_load", session=session) as operation:
        await loading
        operation.outcome = found(exchange)


async def save(exchange: Exchange, saving: Awaitable[_T]) -> _T:
    """Wait for *saving*, and tell what came of it."""
    with Operation("session_save", session=_named(exchange)) as operation:
        outcome = await saving
        dropped = Notice.DROPPED in exchange.told
        operation.outcome = "dropped" if dropped else came_to(outcome)
        operation.session = operation.session or _named(exchange)
    return outcome


async def asked(id_hash: str, loading: Awaitable[Record | Missing]) -> Record | Missing:
    """Wait for the answer of a store, where there is no exchange, and tell what it was."""
    with Operation("session_load", session=id_hash) as operation:
        answer = await loading
        if isinstance(answer, Record):
            operation.outcome = answer.degraded or "found"
        else:
            operation.outcome = "superseded" if answer is Missing.SUPERSEDED else "absent"
    return answer


async def written(id_hash: str, saving: Awaitable[Outcome]) -> Outcome:
    """Wait for what a store says of a write, where there is no exchange, and tell it."""
    with Operation("session_save", session=id_hash) as operation:
        outcome = await saving
        operation.outcome = came_to(outcome)
    return outcome


def came_to(outcome: object) -> str:
    """Return what a write came to, in one word."""
    if outcome is Outcome.GONE:
        return "dropped"
    return "conflict" if outcome is Outcome.CONFLICT else "stored"


def found(exchange: Exchange) -> str:
    """Return what a load came to, in one word."""
    if exchange.standing is Standing.FOUND:
        return exchange.degraded or "found"
    if exchange.standing is Standing.UNAVAILABLE:
        return "unavailable"
    return "superseded" if exchange.standing is Standing.OVER else "absent"


def _named(exchange: Exchange) -> str | None:
    return None if exchange.credential is None else exchange.credential.key.id_hash
