"""Commands of one event loop, coalesced: what one tick queues leaves in one write.

One connection, full duplex, no task per command and one timer for the oldest. A command that may
have reached Redis is never sent again: it may have been done.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias, cast

import hiredis

from holdfast.errors import HoldfastError, RedisUnavailable
from holdfast.link.client import Stream, Target, connect, take_back_unsent
from holdfast.link.patience import Patience
from holdfast.link.spin import Spin
from holdfast.link.translate import Arg, Reply, connect_error, reply_error

if TYPE_CHECKING:
    from holdfast.link.supervisor import Gate

FLUSH_BYTES = 256 * 1024
FLUSH_COMMANDS = 2048
# The handshake may outlive the commands that wait for it: cut off at their deadline, one with TLS
# or AUTH over a slow network would be begun again for every command and never be ready.
CONNECT_DEADLINES = 4
# Of a hundred replies of a Redis nearby, one or two take longer than this. It is longer than what a
# thread looks for: between two looks there is a turn of the loop. Nor is way given to others
# meanwhile: the loop would wait behind all of them, and who sleeps is woken before them.
LOOK_SECONDS = 0.0002

NOT_YET = object()
Report: TypeAlias = Callable[[RedisUnavailable, int], None]
Pending: TypeAlias = tuple["asyncio.Future[Reply]", float]
#: Encodes one command; a `TypeError` where an argument is neither str, bytes, int nor float.
pack: Callable[[tuple[Arg, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


def new_reader() -> hiredis.Reader:
    """A RESP2 parser: bytes, and errors as our own exceptions in place of the reply."""
    return hiredis.Reader(replyError=reply_error, errors="replace", notEnoughData=NOT_YET)


def fail(future: asyncio.Future[Reply], error: HoldfastError) -> None:
    """End *future* with *error*, unless its caller has gone."""
    if not future.done():
        future.set_exception(error)


class Conversation(asyncio.Protocol):
    """The first-in first-out of one established connection.

    Args:
        generation: the gate's count of outages when it was opened; a later outage makes it stale.
    """

    def __init__(self, lane: Lane, generation: int) -> None:
        self.generation = generation
        self.paused = False
        self.retired = False
        self._lane = lane
        self._pending: deque[Pending] = deque()
        self._reader = new_reader()
        self._timer: asyncio.TimerHandle | None = None
        self._patience = Patience(lane.timeout)
        self._spin = Spin()
        self._answers_by = 0.0
        self._stream: Stream | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def idle(self) -> bool:
        """Whether a command would be the only one on its way."""
        return not self._pending and not self.paused

    async def adopt(self, stream: Stream) -> None:
        """Take the connection over from the driver."""
        self._stream = stream
        self._answers_by = self._lane.loop.time() + self._lane.timeout
        early = await stream.hand_over(self)
        if early:
            self.data_received(early)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Always a two-way transport here; uvloop's has no base in common with asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def write(self, chunks: list[bytes], pending: list[Pending]) -> None:
        """Send *chunks*, one command for each of *pending*."""
        self._pending.extend(pending)
        if self._transport is not None:
            self._transport.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if self._timer is None:
            self._arm(self._pending[0][1])

    def look_for(self, future: asyncio.Future[Reply]) -> None:
        """Keep the loop awake for a moment, if a lone reply is likely to come within it."""
        if self._spin.worth():
            self._look(future, time.monotonic() + LOOK_SECONDS)

    def _look(self, future: asyncio.Future[Reply], until: float) -> None:
        # A turn of the loop looks at its sockets, and sleeps only where nothing else is to be done.
        # By a clock of our own: uvloop's goes by whole milliseconds.
        if time.monotonic() > until:
            # Also where the loop has other work, and is awake without this, or the processor has.
            self._spin.missed()
        elif future.done():
            self._spin.caught()
        else:
            self._lane.loop.call_soon(self._look, future, until)

    def data_received(self, data: bytes) -> None:
        gets, pending = self._reader.gets, self._pending
        try:
            self._reader.feed(data)
            while (reply := gets()) is not NOT_YET:
                future, _ = pending.popleft()
                if future.done():
                    continue
                if isinstance(reply, HoldfastError):
                    self._refuse(future, reply)
                else:
                    future.set_result(reply)
        except (hiredis.HiredisError, IndexError):
            # Not Redis, or a reply that nobody asked for: replies can no longer be told apart.
            self._break("protocol")
        if self.retired and not pending:
            self.close("timeout")

    def _refuse(self, future: asyncio.Future[Reply], error: HoldfastError) -> None:
        future.set_exception(error)
        if isinstance(error, RedisUnavailable):
            self._lane.report(error, self.generation)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._lane.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._break("reset")

    def _break(self, reason: str) -> None:
        waiting = any(not future.done() for future, _ in self._pending)
        self.close(reason)
        if waiting:
            self._lane.report(RedisUnavailable(reason), self.generation)

    def close(self, reason: str) -> None:
        """Close the connection now; what still waits fails with *reason*."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            if self._pending:
                take_back_unsent(self._transport.get_extra_info("socket"))
            self._transport.abort()
            self._transport = None
        while self._pending:
            fail(self._pending.popleft()[0], RedisUnavailable(reason))
        self._lane.forget(self, closed=True)

    def retire(self) -> None:
        """Take no new command; what waits is still answered in order, or expires."""
        self.retired = True
        self._lane.forget(self)
        if not self._pending:
            self.close("timeout")

    def abandon(self) -> None:
        """In a forked child: drop the child's copy of the socket without a word to the server."""
        if self._transport is not None:
            disown(self._transport)

    def _arm(self, when: float) -> None:
        self._timer = self._lane.loop.call_at(when, self._judge, when)

    def _judge(self, armed_for: float) -> None:
        self._timer = None
        if not self._pending:
            self._patience.reset()
            return
        now, due = self._lane.loop.time(), self._oldest_due()
        if due > now:
            self._patience.reset()
            self._arm(due)
        elif (until := self._patience.until(armed_for, now)) is not None:
            self._arm(until)
        else:
            self._expire(now)

    def _oldest_due(self) -> float:
        """When the oldest command is due; one that its caller cancelled is still owed a reply."""
        return self._pending[0][1] if not self.retired else self._next_due(0.0)

    def _next_due(self, otherwise: float = math.inf) -> float:
        """When the first is due of those that somebody still waits for."""
        return min((due for future, due in self._pending if not future.done()), default=otherwise)

    def _expire(self, now: float) -> None:
        for future, due in self._pending:
            if due <= now:
                fail(future, RedisUnavailable("timeout"))
        if now < self._answers_by:
            # What had waited for the connect was due too early. A connection that is begun anew for
            # the next command would be as late for it; this one is as good as it is fast.
            self._arm(min(self._next_due(), self._answers_by))
            return
        first = not self.retired
        self.retire()
        if first:
            self._lane.report(RedisUnavailable("timeout"), self.generation)
        due = self._oldest_due()
        if due:
            self._arm(due)
        else:
            self.close("timeout")


class Lane:
    """One loop's way to Redis: connects at the first command and again after a loss.

    Args:
        loop: the loop whose commands these are; every method is called on it.
        where: asked at each connect where Redis is.
        timeout: seconds for one operation, connect included.
        gate: the link's verdict.
        report: told of each outage seen here, with the generation it belongs to.
        closed: told when the lane has closed itself with its loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        where: Callable[[], Target],
        timeout: float,
        gate: Gate,
        report: Report,
        closed: Callable[[Lane], None],
    ) -> None:
        self.loop = loop
        self.timeout = timeout
        self.report = report
        self._where = where
        self._gate = gate
        self._closed: Callable[[Lane], None] | None = closed
        self._queue: deque[tuple[bytes, asyncio.Future[Reply], float]] = deque()
        self._scheduled = False
        # Whether the last batch was of one command: what is to be expected of the next.
        self._alone = False
        self._current: Conversation | None = None
        self._open: set[Conversation] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._patience = Patience(timeout)
        self._keeper = self._keep()
        # Run to its yield, so that the loop knows it and ends it in shutdown_asyncgens().
        with suppress(StopIteration):
            self._keeper.__anext__().send(None)

    async def _keep(self) -> AsyncGenerator[None, None]:
        """Close with the loop. Every runner ends its generators before it closes its loop; a task
        would do too, but is seen by whoever counts tasks and complains if the loop is dropped."""
        try:
            yield
        finally:
            self.close()

    def send(self, args: tuple[Arg, ...], *, more: bool = False) -> asyncio.Future[Reply]:
        """Queue one command; it leaves at the end of this tick, or now if it is likely alone.

        Args:
            args: the command.
            more: others follow in this tick, so it is not.
        """
        future: asyncio.Future[Reply] = self.loop.create_future()
        self._queue.append((pack(args), future, self.loop.time() + self.timeout))
        if not self._scheduled:
            current = self._current
            if self._alone and not more and current is not None and current.idle:
                # Nothing is in flight and the last batch was of one: a turn of the loop, which
                # costs a system call, would gather nothing.
                self._flush()
            else:
                self._scheduled = True
                self.loop.call_soon(self._flush)
        return future

    def flush_soon(self) -> None:
        """Have what is queued written in the next tick."""
        if self._queue and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        conversation = self._current
        if conversation is not None and conversation.generation != self._gate.generation:
            conversation.retire()
            conversation = None
        if not self._queue:
            return
        if conversation is None:
            self._connect()
        elif not conversation.paused:
            self._write(conversation)
            # The rest of a large queue gives the loop's other work, and replies, their turn first.
            self.flush_soon()

    def _write(self, conversation: Conversation) -> None:
        queue, size = self._queue, 0
        chunks: list[bytes] = []
        pending: list[Pending] = []
        while queue and size < FLUSH_BYTES and len(chunks) < FLUSH_COMMANDS:
            packed, future, due = queue.popleft()
            if not future.done():
                chunks.append(packed)
                pending.append((future, due))
                size += len(packed)
        if chunks:
            self._alone = len(chunks) == 1 and conversation.idle
            conversation.write(chunks, pending)
            if self._alone:
                conversation.look_for(pending[0][0])

    def _connect(self) -> None:
        if self._connecting is None:
            # An empty context: a connection outlives the request that happened to need it first.
            self._connecting = self.loop.create_task(self._begin(), context=contextvars.Context())
        if self._timer is None:
            self._arm(self._queue[0][2])

    async def _begin(self) -> None:
        generation = self._gate.generation
        conversation = Conversation(self, generation)
        try:
            async with asyncio.timeout(CONNECT_DEADLINES * self.timeout):
                await conversation.adopt(await connect(self._where()))
        except Exception as error:  # noqa: BLE001
            unavailable = connect_error(error)
            self._refuse_queue(unavailable)
            conversation.close("reset")
            self.report(unavailable, generation)
        except asyncio.CancelledError:
            self._refuse_queue(RedisUnavailable("closed"))
            conversation.close("closed")
            raise
        else:
            self._current = conversation
            self._open.add(conversation)
            self.flush_soon()
        finally:
            self._connecting = None

    def _refuse_queue(self, error: RedisUnavailable) -> None:
        while self._queue:
            fail(self._queue.popleft()[1], RedisUnavailable(error.reason, error.detail))

    def _arm(self, when: float) -> None:
        self._timer = self.loop.call_at(when, self._judge, when)

    def _judge(self, armed_for: float) -> None:
        """Fail what waits for a connection longer than its deadline; the connect itself goes on."""
        self._timer = None
        if not self._queue or self._connecting is None:
            self._patience.reset()
            return
        now, due = self.loop.time(), self._queue[0][2]
        if due > now:
            self._patience.reset()
            self._arm(due)
        elif (until := self._patience.until(armed_for, now)) is not None:
            self._arm(until)
        else:
            self._refuse_queue(RedisUnavailable("timeout"))
            self.report(RedisUnavailable("timeout"), self._gate.generation)

    def forget(self, conversation: Conversation, *, closed: bool = False) -> None:
        """Send nothing more over *conversation*; what was not yet sent takes the next one."""
        if self._current is conversation:
            self._current = None
            self.flush_soon()
        if closed:
            self._open.discard(conversation)

    def close(self) -> None:
        """Close every connection; what waits fails with ``closed``. Closing twice is once."""
        if self._closed is None:
            return
        closed, self._closed = self._closed, None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._refuse_queue(RedisUnavailable("closed"))
        for conversation in list(self._open):
            conversation.close("closed")
        closed(self)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connections without touching them."""
        for conversation in self._open:
            conversation.abandon()


def disown(transport: asyncio.BaseTransport) -> None:
    """Replace a forked child's copy of a socket by the null device.

    The number stays taken, so that the transport, when it is collected, closes nothing of somebody
    else's; the parent's copy and the server see nothing.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return
    null = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null, sock.fileno())
    finally:
        os.close(null)
