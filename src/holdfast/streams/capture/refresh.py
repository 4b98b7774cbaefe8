"""Finding the answer that a refreshed page has lost: one that goes on and that nobody reads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.streams.capture.presence import Presence
from holdfast.streams.capture.register import Register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.streams.capture.ids import Seal
    from holdfast.streams.capture.register import Captured
    from holdfast.streams.store import EventStore

LEAVING = 1.0
"""Seconds in which a reader who is leaving may be noticed."""
_LOOK_AGAIN = 0.05
_AT_MOST = 8


async def find_free(store: EventStore, seal: Seal) -> Presence | None:
    """Return the presence of a new reader in an open answer that has no other; ``None``: none such.

    Raises:
        RedisUnavailable: nobody can say now.
    """
    register = Register(store, seal.register)
    found = await _newest(register)
    going_on = {each.run_id for each in found if await _goes_on(store, each)}
    if not going_on:
        if found:
            await register.clear()
        return None
    last = asyncio.get_running_loop().time() + LEAVING
    while True:
        for each in found:
            if each.run_id in going_on and not each.readers:
                presence = Presence(register, each.run_id)
                if await _is_ours(presence):
                    return presence
        if asyncio.get_running_loop().time() >= last:
            return None
        await asyncio.sleep(_LOOK_AGAIN)
        found = await _newest(register)


async def _is_ours(presence: Presence) -> bool:
    """Come to read; True: and nobody else does. Otherwise this reader is gone again."""
    first = False
    try:
        await presence.reads()
        # Another may have come at the same time: the register has them in one order.
        first = await presence.is_first()
    finally:
        if not first:
            presence.left()
    return first


async def _newest(register: Register) -> Sequence[Captured]:
    return list(reversed((await register.look()).values()))[:_AT_MOST]


async def _goes_on(store: EventStore, each: Captured) -> bool:
    return (await store.describe(each.run_id)).status == "open"
