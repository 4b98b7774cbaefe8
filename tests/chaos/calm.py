"""Who may act when: faults alone, and whoever looks at what is left only while there is none."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Calm:
    """A lock of two kinds: any number may share it, and a fault has it alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._sharing = 0
        self._broken = False

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Wait for a moment without a fault, and keep it so for the length of the block."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._broken)
            self._sharing += 1
        try:
            yield
        finally:
            async with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        """Wait until nobody looks, and let nobody look for the length of the block."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._sharing)
            self._broken = True
        try:
            yield
        finally:
            async with self._changed:
                self._broken = False
                self._changed.notify_all()
