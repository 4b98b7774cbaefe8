"""A session's load and its save, as they are told to whoever measures them.

Called only where somebody does. What is done is done elsewhere; here it is named when it has been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.sessions.cookie import Presented
from holdfast.sessions.lifecycle import Notice, Standing
from holdfast.signals import Operation

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from holdfast.sessions.exchange import Exchange


async def load(exchange: Exchange, loading: Awaitable[None]) -> None:
    """Wait for *loading*, and tell what it found."""
    answer = exchange.answer
    session = answer.credential.key.id_hash if isinstance(answer, Presented) else None
    with Operation("session_load", session=session) as operation:
        await loading
        operation.outcome = found(exchange)


async def save(exchange: Exchange, saving: Awaitable[None]) -> None:
    """Wait for *saving*, and tell what came of it."""
    with Operation("session_save", session=_named(exchange)) as operation:
        await saving
        operation.outcome = "dropped" if Notice.DROPPED in exchange.told else "stored"
        operation.session = operation.session or _named(exchange)


def found(exchange: Exchange) -> str:
    """Return what a load came to, in one word."""
    if exchange.standing is Standing.FOUND:
        return exchange.degraded or "found"
    if exchange.standing is Standing.UNAVAILABLE:
        return "unavailable"
    return "superseded" if exchange.standing is Standing.OVER else "absent"


def _named(exchange: Exchange) -> str | None:
    return None if exchange.credential is None else exchange.credential.key.id_hash
