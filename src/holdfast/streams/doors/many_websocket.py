"""Many runs over one WebSocket: the frames of each, and runs that come and go meanwhile."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING

from holdfast.streams.access import PolicyError
from holdfast.streams.composite import MAX_RUNS
from holdfast.streams.cursor import Cursor
from holdfast.streams.doors import websocket
from holdfast.streams.doors.commands import Add, Nonsense, parse_command
from holdfast.streams.doors.many import ACCESS_FAILED, Many
from holdfast.streams.doors.service import ask
from holdfast.streams.doors.told import Told, failed
from holdfast.streams.fanout.pulse import Pulse, listening

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Message
    from starlette.websockets import WebSocket

    from holdfast.streams.doors.commands import Command
    from holdfast.streams.doors.many_asking import Asked, Granted
    from holdfast.streams.doors.service import Service

EMPTY_SECONDS = 60.0
"""How long a socket may be open without a run; nobody is asked for a grant to open one."""

MAX_ERRORS = 100
ERROR_SECONDS = 60.0
"""A client that is answered more errors than this in so many seconds is not worth serving."""

INBOX = 16
"""Commands that wait their turn; the next one stays in the network."""


async def serve(service: Service, request: Asked, grant: Granted, socket: WebSocket) -> None:
    """Accept *socket* and send it the events of its runs.

    It ends when the last of its runs has ended, with the client or with the process. A socket that
    has no run yet, or has dropped its last one, waits for another.
    """
    await socket.accept()
    hub = service.hub()
    async with Many(hub, request.composite) as many:
        sender = _Sender(service, request, many, socket)
        async with listening(socket.receive, many, sender.hear):
            code = await sender.run(grant)
    # A client that does not answer the close holds nothing of the runs meanwhile.
    await websocket.close(socket, code)


class _Sender:
    """The sender of one open socket, which also does what the client says.

    One task sends everything, so that no two sends are under way at once.
    """

    def __init__(self, service: Service, request: Asked, many: Many, socket: WebSocket) -> None:
        self._service = service
        self._request = request
        self._many = many
        self._socket = socket
        self._inbox: asyncio.Queue[Command] = asyncio.Queue(INBOX)
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(many.rounds, many, math.inf)
        self._errors = 0
        self._errors_since = self._loop.time()
        self._empty: asyncio.TimerHandle | None = None
        self._gave_up = False

    async def hear(self, message: Message) -> None:
        """Take what the client says; the next is received when there is room for this."""
        await self._inbox.put(parse_command(message.get("text")))
        self._many.wake()

    async def run(self, grant: Granted) -> int:
        """Send what is to be sent; return the close code."""
        try:
            await self._tell(failed(run_id, code) for run_id, code in grant.refused.items())
            await self._tell(await self._many.add(grant.entrances))
            if grant.entrances and not self._many:
                return websocket.NORMAL
            return await self._relay()
        finally:
            self._pulse.cancel()
            self._fill()

    async def _relay(self) -> int:
        many = self._many
        while not many.over:
            if not self._inbox.empty():
                # One at a time: whoever talks without a pause gets events all the same.
                await self._tell(await self._obey(self._inbox.get_nowait()))
            if many.unknowable:
                return websocket.TRY_AGAIN
            if self._is_nuisance():
                return websocket.POLICY
            had_runs = len(many) > 0
            await self._tell(await many.take())
            if not many and self._inbox.empty() and (had_runs or self._was_empty_for_long()):
                return websocket.NORMAL
            if self._inbox.empty():
                await many.wait()
        return websocket.GOING_AWAY

    # -- what the client says

    async def _obey(self, command: Command) -> list[Told]:
        if isinstance(command, Add):
            told = await self._add(command)
        elif isinstance(command, Nonsense):
            told = [failed(command.run_id, command.code)]
        elif await self._many.drop(command.run_id):
            told = [Told("dropped", command.run_id)]
        else:
            told = [failed(command.run_id, "RUN_NOT_READ")]
        self._errors += sum(each.kind == "error" for each in told)
        return told

    async def _add(self, command: Add) -> list[Told]:
        run_id, many = command.run_id, self._many
        if run_id in many:
            return [failed(run_id, "REPEATED_RUN")]
        if len(many) >= MAX_RUNS:
            return [failed(run_id, "TOO_MANY_RUNS")]
        if self._service.is_full(self._service.hub()):
            return [failed(run_id, "TOO_MANY_READERS")]
        try:
            verdict = await ask(partial(self._request.grants.verdict, run_id, command.token))
        except PolicyError:
            return [failed(run_id, ACCESS_FAILED)]
        if verdict is not None and self._request.refuses(run_id, verdict):
            return [failed(run_id, self._service.denied(verdict, self._socket).code)]
        position = command.position
        if position is None:
            position = many.composite.position(run_id)
        elif isinstance(position, Cursor):
            many.composite.move(run_id, position)
        else:
            many.composite.forget(run_id)
        entrance = self._request.entrance(run_id, verdict, position, command.token)
        self._fill()
        return [Told("added", run_id), *await many.add({run_id: entrance})]

    def _is_nuisance(self) -> bool:
        """Whether the client was answered too many errors of late."""
        if self._loop.time() - self._errors_since > ERROR_SECONDS:
            self._errors, self._errors_since = 0, self._loop.time()
        return self._errors > MAX_ERRORS

    # -- a socket without a run

    def _was_empty_for_long(self) -> bool:
        if self._empty is None:
            self._empty = self._loop.call_later(EMPTY_SECONDS, self._give_up)
        return self._gave_up

    def _give_up(self) -> None:
        # Noted here: a timer may run a little early by the clock of its loop.
        self._gave_up = True
        self._many.wake()

    def _fill(self) -> None:
        if self._empty is not None:
            self._empty.cancel()
            self._empty, self._gave_up = None, False

    # -- sending

    async def _tell(self, told: Iterable[Told]) -> None:
        for each in told:
            if self._many.left:
                return
            await self._pulse.watch(websocket.put(self._socket, each.websocket()))
