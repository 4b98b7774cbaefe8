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


async def find_free(store: EventStore, seals: Sequence[Seal]) -> tuple[Seal, Presence] | None:
    """Return a new reader's presence in an open answer that has no other, and its seal.

    Args:
        seals: of the reader, the one that is looked at first before the others.

    Raises:
        RedisUnavailable: nobody can say now.
    """
    registers = [Register(store, seal.register) for seal in seals]
    found = await asyncio.gather(*map(_newest, registers))
    going_on = await _going_on(store, found)
    await _cleared(registers, found, going_on)
    last = asyncio.get_running_loop().time() + LEAVING
    while going_on:
        for seal, register, newest in zip(seals, registers, found, strict=True):
            for each in newest:
                if each.run_id in going_on and not await register.readers(each):
                    presence = Presence(register, each.run_id)
                    if await _is_ours(presence):
                        return seal, presence
        if asyncio.get_running_loop().time() >= last:
            break
        await asyncio.sleep(_LOOK_AGAIN)
        found = await asyncio.gather(*map(_newest, registers))
    return None


async def _cleared(
    registers: Sequence[Register], found: Sequence[Sequence[Captured]], going_on: set[str]
) -> None:
    for register, newest in zip(registers, found, strict=True):
        if newest and going_on.isdisjoint(each.run_id for each in newest):
            await register.clear()


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


async def _going_on(store: EventStore, found: Sequence[Sequence[Captured]]) -> set[str]:
    run_ids = [each.run_id for newest in found for each in newest]
    told = await asyncio.gather(*map(store.describe, run_ids))
    return {run_id for run_id, info in zip(run_ids, told, strict=True) if info.status == "open"}
