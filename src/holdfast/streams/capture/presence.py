"""One reader of a captured answer, told to its register: begun, come, gone.

Telling never fails a request. Who leaves tells it in a task of its own: whoever served it may be
cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from holdfast.streams.capture.register import Headers, Register

log = logging.getLogger("holdfast.streams")

_last_words: set[asyncio.Task[None]] = set()


class Presence:
    """One reader of one run.

    Args:
        register: of this reader and address; ``None`` where nobody can come back there.
        run_id: the run.
    """

    def __init__(self, register: Register | None, run_id: str) -> None:
        self.register = register
        self.run_id = run_id
        self.name = ""
        self._known = self._gone = False

    async def began(self, headers: Headers) -> None:
        """The answer begins with this reader, who may have left already."""
        if self.register is not None:
            await self._told(self._begin(self.register, headers))
            self._known = True
            if self._gone:
                self.left()

    async def reads(self) -> None:
        """The reader has come, to an answer that there is."""
        if self.register is not None:
            await self._told(self._come(self.register))

    def left(self) -> None:
        """The reader is gone."""
        self._gone = True
        if self.register is not None and self._known:
            told = self._told(self.register.left(self.run_id, self.name))
            task = asyncio.get_running_loop().create_task(told)
            _last_words.add(task)
            task.add_done_callback(_last_words.discard)

    async def is_first(self) -> bool:
        """Whether nobody else reads, by the register.

        Raises:
            RedisUnavailable: nobody can say.
        """
        found = (await self.register.look()).get(self.run_id) if self.register else None
        if self.register is None or found is None:
            return False
        return (await self.register.readers(found))[:1] == [self.name]

    async def _begin(self, register: Register, headers: Headers) -> None:
        self.name = await register.newcomer()
        await register.began(self.run_id, self.name, headers)

    async def _come(self, register: Register) -> None:
        self.name = await register.newcomer()
        # From here on it may be written, also where this is cancelled.
        self._known = True
        await register.reads(self.run_id, self.name)

    async def _told(self, telling: Awaitable[None]) -> None:
        try:
            await telling
        except HoldfastError as error:
            # A page that is refreshed will then not find its answer again: the app is called.
            log.warning("who reads the run %r could not be noted: %s", self.run_id, error)
