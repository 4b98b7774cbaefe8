"""How what is published here gets to Redis: one batch of a run after the other, each on its flight.

What waits is in the outbox; who waits has a ticket or a turn; what a batch asks and what its answer
says is in ``writes``. Here it is decided who sends next, by which way, and who is told of the
answer. What Redis cannot take now stays in the outbox, for ``flush``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError, RedisReplyError, RedisUnavailable
from holdfast.streams.event import TERMINAL_TYPES
from holdfast.streams.store import News
from holdfast.streams.stores.tickets import Ticket
from holdfast.streams.stores.turns import Turn
from holdfast.streams.stores.writes import in_a_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.link import Link, Reply
    from holdfast.settings import Settings
    from holdfast.streams.store import Draft, Entry
    from holdfast.streams.stores.bell import LocalBells
    from holdfast.streams.stores.outbox import Outbox, Waiting
    from holdfast.streams.stores.replies import Keys
    from holdfast.streams.stores.tail import Short
    from holdfast.streams.stores.writes import Writes

log = logging.getLogger("holdfast.streams")


class Sender:
    """Sends what loops and threads of this process publish.

    Args:
        link: the supervised link.
        settings: ``REDIS_TIMEOUT`` and ``REDIS_WAIT``.
        keys: the names that a run has in Redis.
        outbox: where what is published waits.
        writes: what a batch asks, and what its answer teaches.
        bells: who hears in this process of what was written.
    """

    def __init__(
        self,
        link: Link,
        settings: Settings,
        keys: Callable[[str], Keys],
        outbox: Outbox,
        writes: Writes,
        bells: LocalBells,
    ) -> None:
        self._link = link
        self._keys = keys
        self._outbox = outbox
        self._writes = writes
        self._bells = bells
        self._patience = 2 * settings.redis_timeout
        self._replicas = settings.redis_wait
        self._watching: set[tuple[str, asyncio.AbstractEventLoop]] = set()

    def forked(self) -> None:
        """In a forked child: the loops are the parent's."""
        self._watching = set()

    # -- who publishes, and waits for what comes of it

    async def append(
        self, run_id: str, drafts: Sequence[Draft], owner: str | None, life: str | None
    ) -> list[Entry]:
        """Publish from a task; see :meth:`~holdfast.streams.store.EventStore.append`."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(loop, len(drafts))
        follows = self._outbox.put(
            run_id,
            drafts,
            [ticket.tell] * len(drafts),
            sender=loop,
            owner=owner,
            life=life,
            now_ms=time.time_ns() // 1_000_000,
            now=time.monotonic(),
        )
        if not self._link.up:
            # Queued before this wait: tasks are woken from it in any order.
            await self._link.ready()
        reply = None if follows else self._send(run_id, loop)
        if reply is not None:
            # What it says has been settled by its callback before this goes on: waiting for it
            # directly saves a turn of the loop.
            try:  # noqa: SIM105 - on the way of every event, where a context manager costs
                await reply
            except HoldfastError:
                pass
        if not ticket.done:
            await ticket.future()
        entries = ticket.entries()
        if self._replicas and _ends_a_run(entries):
            try:
                held = await self._link.replicas(self._keys(run_id).stream, self._replicas)
            except HoldfastError:
                held = 0
            self._tell_of_replicas(run_id, held)
        return entries

    def append_sync(
        self, run_id: str, drafts: Sequence[Draft], owner: str | None, life: str | None
    ) -> list[Entry]:
        """The same from a thread without an event loop."""
        turn = Turn(len(drafts))
        if drafts:
            self._outbox.put(
                run_id,
                drafts,
                turn.callbacks(),
                sender=turn,
                owner=owner,
                life=life,
                now_ms=time.time_ns() // 1_000_000,
            )
        try:
            while not turn.done:
                turn.asked = False
                seconds = self._send_sync(run_id, turn)
                if not turn.done:
                    turn.wait(seconds)
        except BaseException:
            self._give_up(run_id, turn)
            raise
        entries = turn.entries()
        if self._replicas and _ends_a_run(entries):
            try:
                held = self._link.replicas_sync(self._keys(run_id).stream, self._replicas)
            except HoldfastError:
                held = 0
            self._tell_of_replicas(run_id, held)
        return entries

    def _give_up(self, run_id: str, turn: Turn) -> None:
        """What a thread queued that is torn away is written all the same, and so is its batch."""
        turn.gone = True
        if turn.sending:
            self._outbox.release(run_id)
        if turn.sending or turn.asked:
            self._send_next(run_id, None)

    def _tell_of_replicas(self, run_id: str, held: int) -> None:
        # It is written, its readers have it, and after a failover this process writes it again:
        # an error would have its publisher end a run that has ended.
        if held < self._replicas:
            log.warning(
                "the end of run %s is on %d replicas, and HOLDFAST_REDIS_WAIT asks for %d",
                run_id,
                held,
                self._replicas,
            )

    # -- a batch leaves a loop, and its answer comes

    def _send(self, run_id: str, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Reply] | None:
        """Send the next batch of a run, if none is on its way; what comes back sends the next."""
        batch = self._outbox.take(run_id, loop, time.monotonic(), self._patience)
        if isinstance(batch, float):
            self._ask_again(run_id, loop, batch)
            return None
        if not batch:
            return None
        write = self._writes.short(run_id, batch)
        if write is None:
            command = self._writes.publish.evalsha(*self._writes.long(run_id, batch))
        else:
            command = self._writes.append.evalsha(*write.call)
        reply = self._link.send(*command)
        if not reply.done():  # else Redis is away, and nothing left
            self._outbox.leaves(batch)
        reply.add_done_callback(partial(self._on_reply, run_id, batch, loop, write))
        return reply

    def _ask_again(self, run_id: str, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Another loop's batch is on its way: its reply sends ours, unless that loop is gone."""
        if (run_id, loop) not in self._watching:
            self._watching = {each for each in self._watching if not each[1].is_closed()}
            self._watching.add((run_id, loop))
            loop.call_later(seconds, self._send_now, run_id, loop)

    def _send_now(self, run_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self._watching.discard((run_id, loop))
        self._send(run_id, loop)

    def _on_reply(
        self,
        run_id: str,
        batch: list[Waiting],
        loop: asyncio.AbstractEventLoop,
        write: Short | None,
        reply: asyncio.Future[Reply],
    ) -> None:
        if reply.cancelled():
            # With the caller who waited for it. The others of the batch still want to know, and
            # asking again writes nothing twice.
            self._outbox.release(run_id)
            self._send(run_id, loop)
            return
        error = reply.exception()
        if isinstance(error, RedisUnavailable):
            self._journal(run_id, loop)
            return
        writes = self._writes
        unknown = isinstance(error, RedisReplyError) and error.code == "NOSCRIPT"
        if write is not None and unknown:
            command = writes.append.eval(*write.call)
        elif unknown:
            command = writes.publish.eval(*writes.long(run_id, batch))
        elif write is not None and (error is not None or writes.declined(reply.result())):
            # Nothing was written; what is wrong, the long way says.
            command, write = writes.publish.evalsha(*writes.long(run_id, batch)), None
        else:
            self._settle(run_id, batch, loop, write, error or reply.result())
            return
        again = self._link.send(*command)
        again.add_done_callback(partial(self._on_reply, run_id, batch, loop, write))

    # -- the same in a thread, which waits in place

    def _send_sync(self, run_id: str, turn: Turn) -> float:
        """Send the next batch of a run, if none is on its way; return when to look again."""
        batch = self._outbox.take(run_id, turn, time.monotonic(), self._patience)
        if isinstance(batch, float):
            return batch
        if batch:
            turn.sending = True
            try:
                write, reply = self._write_sync(run_id, batch)
            except RedisUnavailable:
                self._journal(run_id, None)
            else:
                self._settle(run_id, batch, None, write, reply)
            turn.sending = False
        return self._patience

    def _write_sync(self, run_id: str, batch: list[Waiting]) -> tuple[Short | None, Any]:
        if not (self._link.up or self._link.ready_sync()):
            raise RedisUnavailable(self._link.status.reason or "away")
        self._outbox.leaves(batch)
        writes = self._writes
        write = writes.short(run_id, batch)
        if write is not None:
            with contextlib.suppress(RedisReplyError):  # the long way says what is wrong
                ids = self._link.run_sync(writes.append, *write.call)
                if not writes.declined(ids):
                    return write, ids
        try:
            return None, self._link.run_sync(writes.publish, *writes.long(run_id, batch))
        except RedisReplyError as error:
            return None, error

    # -- what came of it, and who sends next

    def _settle(
        self,
        run_id: str,
        batch: list[Waiting],
        loop: asyncio.AbstractEventLoop | None,
        write: Short | None,
        reply: Any,
    ) -> None:
        if write is None and self._writes.learn(run_id, reply) == b"pubsub":
            self._outbox.release(run_id)
            self._send_next(run_id, loop)
            return
        if write is None:
            life, results = self._writes.after_long(run_id, batch, reply)
        else:
            life, results = self._writes.after_short(run_id, batch, write, reply)
        more = self._outbox.done(run_id, batch, results)
        if self._bells.heard(run_id):
            self._bells.ring(run_id, News(life, in_a_row(results)))
        if more:
            self._send_next(run_id, loop)

    def _journal(self, run_id: str, loop: asyncio.AbstractEventLoop | None) -> None:
        entries = self._writes.marked(run_id, self._outbox.unavailable(run_id))
        self._bells.ring(run_id, News(None, entries))
        # The link may have come back before this answer was looked at: nobody else would send then.
        if self._link.up:
            self._send_next(run_id, loop)

    def _send_next(self, run_id: str, here: asyncio.AbstractEventLoop | None) -> None:
        """Have the next batch sent: on the loop *here*, or by whoever waits for it elsewhere."""
        sender = self._outbox.next_sender(run_id)
        if sender is None or (isinstance(sender, Turn) and sender.give()):
            return
        if isinstance(sender, asyncio.AbstractEventLoop) and sender is not here:
            with contextlib.suppress(RuntimeError):  # it is closed, and nobody there waits any more
                sender.call_soon_threadsafe(self._send, run_id, sender)
                return
        if here is not None:
            self._send(run_id, here)
        else:
            self._send_sync(run_id, Turn())


def _ends_a_run(entries: Sequence[Entry]) -> bool:
    return any(each.type in TERMINAL_TYPES and not each.provisional for each in entries)
