"""What a client says in one request, for two who listen: the application, and whoever serves it.

A server gives each message to whoever asks first; here the application gets the body, and both may
learn that the client has left. Of a captured answer only we do: it goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message, Receive


class Intake:
    """The messages of one request.

    Args:
        receive: the server's.

    Attributes:
        detached: the application is not told that the client has left.
    """

    def __init__(self, receive: Receive) -> None:
        self.detached = False
        self._receive = receive
        self._turn = asyncio.Lock()
        self._complete = False
        self._kept: Message | None = None
        self._left: Message | None = None
        self._news = asyncio.Event()

    async def receive(self) -> Message:
        """Return the next message for the application; it has a body to end, or waits."""
        while True:
            if self._kept is not None:
                message, self._kept = self._kept, None
                self._news.set()
                return message
            if self._left is not None and not (self.detached and self._complete):
                return self._left
            await self._next()

    async def until_left(self) -> Message:
        """Return ``http.disconnect`` when the client leaves."""
        while self._left is None:
            await self._next()
        return self._left

    async def _next(self) -> None:
        """Wait until there is something to look at again."""
        if self._nothing_to_ask():
            # Of a body that nobody reads no more is taken.
            self._news.clear()
            await self._news.wait()
            return
        async with self._turn:
            if self._nothing_to_ask():
                return
            message = await self._receive()
            if message["type"] == "http.request":
                self._kept = message
                self._complete = not message.get("more_body", False)
            else:
                self._left = message
        self._news.set()

    def _nothing_to_ask(self) -> bool:
        return self._left is not None or (self._kept is not None and not self._complete)
