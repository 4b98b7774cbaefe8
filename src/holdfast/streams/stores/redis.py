"""The event store in Redis: a stream and one meta key per run, written by one guarded script.

Only sending lives here: what is sent waits in the outbox, what comes back is read by ``replies``.
What Redis cannot take now stays in the outbox and is written, in order and once, when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import secrets
import time
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

from holdfast import signals
from holdfast.errors import CorruptData, HoldfastError, RedisReplyError, RedisUnavailable
from holdfast.forks import watch_forks
from holdfast.link import Link, LinkState, LinkStatus, Listener, Recovery, Reply, Script
from holdfast.streams.event import MAX_PART, TERMINAL_TYPES, EventId, check_run_id
from holdfast.streams.store import (
    Doorbell,
    Draft,
    Entry,
    EventStore,
    Known,
    News,
    Once,
    Pending,
    Ring,
    RunInfo,
    within_bytes,
)
from holdfast.streams.stores import replies, tail
from holdfast.streams.stores.adoption import Dated, move_in
from holdfast.streams.stores.bell import LocalBells, LocalDoorbell
from holdfast.streams.stores.lost import Losses
from holdfast.streams.stores.outbox import Outbox, Waiting
from holdfast.streams.stores.pubsub import Heard, Transports
from holdfast.streams.stores.redis_holds import RedisHolds
from holdfast.streams.stores.replies import Keys, Result
from holdfast.streams.stores.tail import ASK_TAIL, Short, Tail
from holdfast.streams.stores.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.settings import Settings
    from holdfast.streams.hold import Claim, Hold, StopAnswer

log = logging.getLogger("holdfast.streams")

META_EXTRA = 86400
REPLY_BYTES = 1 << 19
"""What one read aims at: a reply of a hundred megabytes would outlast every deadline."""

_FIRST_READ, _GROWTH = 16, 8
_KNOWN_RUNS = 4096


class RedisEventStore(EventStore):
    """Events in Redis Streams, shared by all processes.

    Args:
        link: the supervised link.
        settings: the ``STREAM_*`` variables and ``KEY_PREFIX``.
    """

    def __init__(self, link: Link, settings: Settings) -> None:
        self.max_event_bytes = settings.stream_max_event_bytes
        self._link = link
        self._publish = Script.load("stream_publish")
        self._append = Script.load("stream_append")
        self._look_script = Script.load("stream_look")
        self._audit = Script.load("stream_audit")
        self._delete = Script.load("stream_delete")
        self._bells = LocalBells()
        self.transports = Transports(settings)
        self._outbox = Outbox(settings.stream_journal, settings.stream_max_run_bytes)
        self._patience = 2 * settings.redis_timeout
        self._replicas = settings.redis_wait
        self._watching: set[tuple[str, asyncio.AbstractEventLoop]] = set()
        self._tails: dict[str, Tail] = {}
        self._may_ask = True
        self._retention = int(settings.stream_retention * 1000)
        self._meta_extra = int(max(settings.stream_retention, META_EXTRA) * 1000)
        self._limits = (
            settings.stream_maxlen,
            settings.stream_max_run_bytes,
            self._retention,
            self._meta_extra,
        )
        self._maxlen = str(settings.stream_maxlen)
        self._keys = lru_cache(_KNOWN_RUNS)(
            partial(_checked_keys, settings.key_prefix, settings.stream_key)
        )
        kept = self._retention + self._meta_extra
        self._holds = RedisHolds(link, self._keys, lease=settings.stream_lease, kept=kept)
        Losses(link, self._outbox, self._keys)
        link.on_recovery("streams", self._flush)
        link.on_transition(self._on_transition)
        watch_forks(self)
        signals.readable(self._outbox)

    def __repr__(self) -> str:
        return f"<RedisEventStore {self._link.status.state.name} {self._outbox!r}>"

    @property
    def available(self) -> bool:
        return self._link.up

    @property
    def producer(self) -> str:
        """The name of this process life in the entries it writes."""
        return self._outbox.producer

    @property
    def journalled(self) -> int:
        """How many events wait in this process for Redis to come back."""
        return self._outbox.journalled

    def keys(self, run_id: str) -> Keys:
        """The names that *run_id* has in Redis.

        Raises:
            InvalidEvent: no run can have that id.
        """
        return self._keys(run_id)

    def forked(self) -> None:
        """In a forked child: publish under a name of its own; what waits is the parent's."""
        self._outbox.forked()
        self._bells.forked()
        self.transports.forked()
        self._watching = set()
        self._tails = {}

    # -- writing

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        self._keys(run_id)
        if not drafts:
            return []
        loop = asyncio.get_running_loop()
        ticket = _Ticket(loop, len(drafts))
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
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        self._keys(run_id)
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
        write = self._short(run_id, batch)
        if write is not None:
            with contextlib.suppress(RedisReplyError):  # the long way says what is wrong
                ids = self._link.run_sync(self._append, *write.call)
                if not self._declined(ids):
                    return write, ids
        try:
            return None, self._link.run_sync(self._publish, *self._long(run_id, batch))
        except RedisReplyError as error:
            return None, error

    def _give_up(self, run_id: str, turn: Turn) -> None:
        """What a thread queued that is torn away is written all the same, and so is its batch."""
        turn.gone = True
        if turn.sending:
            self._outbox.release(run_id)
        if turn.sending or turn.asked:
            self._send_next(run_id, None)

    async def write(
        self, run_id: str, drafts: Sequence[Draft], *, once: Once | None = None
    ) -> list[Entry]:
        self._keys(run_id)
        if not drafts:
            return []
        options = [] if once is None else ["key", once.key, "body", once.body]
        reply = await self._write_now(run_id, replies.NOBODY, 0, drafts, options)
        entries = replies.written(run_id, drafts, reply)
        self._bells.ring(run_id, News(entries[0].life, _in_a_row(entries)))
        return entries

    async def _write_now(
        self,
        run_id: str,
        producer: str,
        first: int,
        drafts: Sequence[Draft],
        options: Sequence[str],
        owner: str = "",
    ) -> Any:
        """Write past the outbox, of which the caller waits for nothing; return the reply."""
        keys = self._keys(run_id)
        while True:
            said = [*options, *self.transports.options(run_id)]
            args = [keys.bell, producer, first, *self._limits, secrets.token_hex(8), "", owner]
            args += (len(said) // 2, *said, *itertools.chain(*drafts))
            reply = await self._run(run_id, self._publish, [keys.stream, keys.meta], args)
            if self._learn(run_id, reply) != b"pubsub":
                return reply

    def _send(self, run_id: str, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Reply] | None:
        """Send the next batch of a run, if none is on its way; what comes back sends the next."""
        batch = self._outbox.take(run_id, loop, time.monotonic(), self._patience)
        if isinstance(batch, float):
            self._ask_again(run_id, loop, batch)
            return None
        if not batch:
            return None
        write = self._short(run_id, batch)
        if write is None:
            command = self._publish.evalsha(*self._long(run_id, batch))
        else:
            command = self._append.evalsha(*write.call)
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
        unknown = isinstance(error, RedisReplyError) and error.code == "NOSCRIPT"
        if write is not None and unknown:
            command = self._append.eval(*write.call)
        elif unknown:
            command = self._publish.eval(*self._long(run_id, batch))
        elif write is not None and (error is not None or self._declined(reply.result())):
            # Nothing was written; what is wrong, the long way says.
            command, write = self._publish.evalsha(*self._long(run_id, batch)), None
        else:
            self._settle(run_id, batch, loop, write, error or reply.result())
            return
        again = self._link.send(*command)
        again.add_done_callback(partial(self._on_reply, run_id, batch, loop, write))

    def _journal(self, run_id: str, loop: asyncio.AbstractEventLoop | None) -> None:
        entries = self._marked(run_id, self._outbox.unavailable(run_id))
        self._bells.ring(run_id, News(None, entries))
        # The link may have come back before this answer was looked at: nobody else would send then.
        if self._link.up:
            self._send_next(run_id, loop)

    def _settle(
        self,
        run_id: str,
        batch: list[Waiting],
        loop: asyncio.AbstractEventLoop | None,
        write: Short | None,
        reply: Any,
    ) -> None:
        if write is None and self._learn(run_id, reply) == b"pubsub":
            self._outbox.release(run_id)
            self._send_next(run_id, loop)
            return
        if write is None:
            self._note_tail(run_id, reply)
            life, results = replies.results(run_id, batch, reply)
        else:
            life, results = self._read_short(run_id, batch, write, reply)
        more = self._outbox.done(run_id, batch, results)
        if self._bells.heard(run_id):
            self._bells.ring(run_id, News(life, _in_a_row(results)))
        if more:
            self._send_next(run_id, loop)

    def _learn(self, run_id: str, reply: Any) -> bytes | None:
        """Take note of the transport that a reply shows; return the reply's status."""
        status: bytes | None = reply[0] if isinstance(reply, list) and reply else None
        if status == b"pubsub" or status in replies.LIVE:
            self.transports.learn(run_id, live=True)
        elif status in {b"ok", b"stopping"}:
            self.transports.learn(run_id, live=False)
        return status

    def _marked(self, run_id: str, entries: Sequence[Entry]) -> Sequence[Entry]:
        if not self.transports.expects_live(run_id):
            return entries
        return [entry._replace(kept=False) for entry in entries]

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

    def _short(self, run_id: str, batch: Sequence[Waiting]) -> Short | None:
        """Return how *batch* may be written by the short way, where it may."""
        known = self._tails.get(run_id)
        if known is None or not self._may_ask or self.transports.options(run_id):
            return None
        return tail.short(known, batch, self._keys(run_id), self._maxlen, time.monotonic())

    def _declined(self, reply: Reply) -> bool:
        """Whether the short way wrote nothing; whether it ever will is noted."""
        if reply == b"":
            self._may_ask = False
        return not reply

    def _long(self, run_id: str, batch: Sequence[Waiting]) -> tuple[list[str], list[Any]]:
        """Return the call of ``stream_publish`` that also asks for what the short way has to know.

        It does so where the run has that way at all.
        """
        return self._publish_call(run_id, batch, self.transports.options(run_id) or ASK_TAIL)

    def _read_short(
        self, run_id: str, batch: Sequence[Waiting], write: Short, reply: Any
    ) -> tuple[str | None, list[Result]]:
        try:
            self._tails[run_id], results = tail.after_short(write, batch, reply)
        except (CorruptData, TypeError, ValueError, AttributeError) as error:
            corrupt = CorruptData(f"the answer about the run {run_id!r}: {error}")
            return None, [corrupt] * len(batch)
        return write.tail.life, results

    def _note_tail(self, run_id: str, reply: Any) -> None:
        known = self._tails.pop(run_id, None)
        found = tail.after_long(known, reply, *self._limits[1:3], time.monotonic())
        if found is not None:
            if len(self._tails) >= _KNOWN_RUNS:
                self._tails.clear()  # all are learnt again with their next event
            self._tails[run_id] = found

    def _publish_call(
        self, run_id: str, batch: Sequence[Waiting], options: Sequence[str] | None = None
    ) -> tuple[list[str], list[Any]]:
        keys = self._keys(run_id)
        args: list[Any]
        if batch:
            head = batch[0]
            # No other write of any process has this name.
            name = f"{head.producer}{head.seq}"
            args = [keys.bell, head.producer, head.seq, *self._limits, name]
            args += (head.life or "", head.owner or "")
        else:
            name = secrets.token_hex(8)
            args = [keys.bell, self._outbox.producer, 0, *self._limits, name, "", ""]
        options = self.transports.options(run_id) if options is None else options
        args += (len(options) // 2, *options)
        for waiting in batch:
            args += (waiting.draft.type, waiting.draft.data)
        return [keys.stream, keys.meta], args

    # -- coming back

    def _on_transition(self, status: LinkStatus) -> None:
        """What was accepted between the flush and the gate's opening has nobody else to send it."""
        if status.state is LinkState.UP and self._outbox.waiting_runs():
            with contextlib.suppress(RedisUnavailable):  # the next way back flushes again
                self._flush(_Direct(self._link))

    def _flush(self, redis: Recovery | _Direct) -> None:
        """Write what waits, in order. In the supervisor's thread, before reads are served."""
        for run_id in self._outbox.waiting_runs():
            while batch := self._outbox.head(run_id):
                keys, args = self._publish_call(run_id, batch)
                try:
                    reply: Any = redis.run(self._publish, keys, args)
                except RedisReplyError as error:
                    reply = error
                status = self._learn(run_id, reply)
                if status == b"pubsub":
                    continue
                life, results = replies.results(run_id, batch, reply)
                _log_refused(run_id, batch, results)
                self._outbox.done(run_id, batch, results)
                # Of a Pub/Sub run nothing can be read afterwards.
                passed_on = _in_a_row(results) if status in replies.LIVE else ()
                self._bells.ring(run_id, News(life, passed_on))

    # -- reading

    async def read(
        self,
        run_id: str,
        start: EventId,
        end: EventId | None,
        limit: int,
        *,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        stream, stop = self._keys(run_id).stream, "+" if end is None else str(end)
        entries: list[Entry] = []
        size = 0
        while len(entries) < limit and start.ms <= MAX_PART:
            count = next_count(len(entries), size, limit - len(entries))
            items = await self._ask(run_id, "XRANGE", stream, str(start), stop, "COUNT", count)
            page = [replies.entry(item) for item in items]
            entries += page
            size += sum(len(entry.data) for entry in page)
            if len(page) < count or (max_bytes is not None and size >= max_bytes):
                break
            start = entries[-1].id.next()
        return entries if max_bytes is None else within_bytes(entries, max_bytes)

    async def describe(self, run_id: str) -> RunInfo:
        info, foreign = await self._look(run_id)
        if foreign:
            await self._run(run_id, self._publish, *self._publish_call(run_id, []))
            info, _ = await self._look(run_id)
        if info.lapsed and info.status == "open" and self._may_judge(run_id):
            await self._declare_lost(run_id, info.lapsed)
            info, _ = await self._look(run_id)
        if info.transport is not None:
            self.transports.learn(run_id, live=info.transport == "pubsub")
        return info

    def _may_judge(self, run_id: str) -> bool:
        # What waits here was published by somebody who lived.
        return not self._outbox.pending(run_id) and self._holds.may_judge(run_id)

    async def _declare_lost(self, run_id: str, holder: str) -> None:
        """End a run whose publisher died, unless its lease has been renewed by now."""
        lost = self.draft("run_lost", {}, ours=True)
        await self._write_now(run_id, f"lost{holder}", 1, [lost], ["lost", holder])

    async def adopt(
        self, run_id: str, events: Sequence[Dated], *, owner: str | None = None
    ) -> bool:
        """Take over a whole run that was kept elsewhere, with the times of its events.

        Its events are kept ``HOLDFAST_STREAM_RETENTION`` seconds from now, whatever their age.

        Returns:
            False where there is such a run already, which is left as it is.
        """
        info, _ = await self._look(run_id)
        if not events or info.status != "absent":
            return False
        if not await move_in(self._link, self._keys(run_id), events):
            return False
        await self._write_now(run_id, self._outbox.producer, 0, [], [], owner=owner or "")
        return True

    async def note_foreign(self, run_id: str, *, ended: bool) -> None:
        heard = self.transports.heard(ended=ended)
        await self._run(run_id, self._publish, *self._publish_call(run_id, [], heard))

    async def changed(self, known: Sequence[Known]) -> list[str]:
        # One script may name keys of one slot only: on a Cluster a run is mostly alone in its own.
        together: dict[int, list[Known]] = {}
        for each in known:
            together.setdefault(self._link.slot(self._keys(each.run_id).stream), []).append(each)
        found = await asyncio.gather(*[self._changed(some) for some in together.values()])
        return [run_id for some in found for run_id in some]

    async def _changed(self, known: Sequence[Known]) -> list[str]:
        keys: list[str] = []
        args: list[Any] = []
        for run_id, last, n, life, ended in known:
            names = self._keys(run_id)
            keys += (names.stream, names.meta)
            args += (str(last), n, life or "", int(ended))
        places: Any = await self._link.run(self._audit, keys, args)
        return [known[place - 1].run_id for place in places]

    async def _look(self, run_id: str) -> tuple[RunInfo, bool]:
        keys = self._keys(run_id)
        return replies.info(await self._run(run_id, self._look_script, [keys.stream, keys.meta]))

    async def _ask(self, run_id: str, *command: Any) -> Any:
        try:
            return await self._link.execute(*command)
        except RedisReplyError as error:
            raise replies.as_corrupt(run_id, error) from error

    async def _run(
        self, run_id: str, script: Script, keys: Sequence[str], args: Sequence[Any] = ()
    ) -> Any:
        try:
            return await self._link.run(script, keys, args)
        except RedisReplyError as error:
            raise replies.as_corrupt(run_id, error) from error

    async def set_expire(self, run_id: str, seconds: float) -> bool:
        keys = self._keys(run_id)
        stream_ms = milliseconds(seconds)
        kept, *_ = await self._link.pipeline(
            [
                ("PEXPIRE", keys.stream, stream_ms),
                ("PEXPIRE", keys.meta, stream_ms + self._meta_extra),
                # The next event sets the expiry anew, however soon it comes.
                ("HDEL", keys.meta, "kept"),
            ]
        )
        if isinstance(kept, HoldfastError):
            raise kept
        return bool(kept == 1)

    async def delete(self, run_id: str) -> bool:
        keys = self._keys(run_id)
        args = (keys.bell, self._retention + self._meta_extra)
        removed = await self._run(run_id, self._delete, [keys.stream, keys.meta], args)
        self._outbox.forget(run_id)
        self.transports.forget(run_id)
        self._bells.ring(run_id, News())
        return bool(removed == 1)

    async def claim(self, hold: Hold, *, owner: str | None = None, start: bool = False) -> Claim:
        return await self._holds.claim(hold, owner=owner, start=start)

    def claim_sync(self, hold: Hold, *, owner: str | None = None, start: bool = False) -> Claim:
        return self._holds.claim_sync(hold, owner=owner, start=start)

    def attend(self, hold: Hold) -> None:
        self._holds.attend(hold)

    def leave(self, hold: Hold) -> None:
        self._holds.leave(hold)

    async def request_stop(self, run_id: str) -> StopAnswer:
        # What other programs have ended, and what nobody publishes any more, is found out first.
        await self.describe(run_id)
        return await self._holds.request_stop(run_id)

    def pending(self, run_id: str) -> Pending | None:
        found = self._outbox.pending(run_id)
        if found is None:
            return None
        return replace(found, entries=tuple(self._marked(run_id, found.entries)))

    def doorbell(self, ring: Ring, missed: Callable[[], None]) -> Doorbell:
        return _RedisDoorbell(self, self._link, self._bells, ring, missed)


def _ends_a_run(entries: Sequence[Entry]) -> bool:
    return any(each.type in TERMINAL_TYPES and not each.provisional for each in entries)


class _RedisDoorbell(Doorbell):
    """Rings by Pub/Sub for what other processes write, and directly for what this one does."""

    def __init__(
        self,
        store: RedisEventStore,
        link: Link,
        bells: LocalBells,
        ring: Ring,
        missed: Callable[[], None],
    ) -> None:
        self._store = store
        self._local = LocalDoorbell(bells, ring)
        self._ring = ring
        self._heard: dict[str, Heard] = {}
        # By the name of the channel: the run, and whether it is the run's bell.
        self._channels: dict[bytes, tuple[Heard, bool]] = {}
        self._listener = Listener(link, self._on_message, missed)

    async def add(self, run_id: str) -> None:
        await self._local.add(run_id)
        heard = self._heard.setdefault(run_id, Heard(run_id))
        bell, channel = self._names(run_id)
        self._channels[bell.encode()] = heard, True
        self._channels[channel.encode()] = heard, False
        await self._listener.add(bell, channel)

    async def settle(self, run_id: str) -> None:
        heard = self._heard.get(run_id)
        if heard is not None:
            # What is published beside a stream would come here for nothing.
            heard.transport = "streams"
            await self._ignore(self._names(run_id)[1])

    async def discard(self, run_id: str) -> None:
        await self._local.discard(run_id)
        if self._heard.pop(run_id, None) is not None:
            for name in self._names(run_id):
                await self._ignore(name)

    async def _ignore(self, name: str) -> None:
        if self._channels.pop(name.encode(), None) is not None:
            await self._listener.discard(name)

    def _names(self, run_id: str) -> tuple[str, str]:
        return self._store.keys(run_id).bell, self._store.transports.channel(run_id)

    async def aclose(self) -> None:
        self._local.release()
        await self._listener.aclose()

    def release(self) -> None:
        self._local.release()

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        heard, is_bell = self._channels.get(channel, (None, False))
        if heard is None:
            return
        now_ms = time.time_ns() // 1_000_000
        news = heard.bell(payload) if is_bell else heard.message(payload, now_ms)
        if news is not None:
            first = news.entries[0] if news.entries else None
            if first is not None and first.kept and first.producer == self._store.producer:
                news = News(news.life, (), news.n)  # heard when it was written
            self._ring(heard.run_id, news)


@dataclass(frozen=True, slots=True)
class _Direct:
    """The link's own synchronous door, once it is open again."""

    link: Link

    def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Any]) -> Reply:
        return self.link.run_sync(script, keys, args)


class _Ticket:
    """What one publisher waits with; it is told in whatever thread the answers are found.

    Args:
        loop: where it waits.
        size: how many answers are to come; they come in order.
    """

    __slots__ = ("_found", "_future", "_loop", "_size")

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self._size = size
        self._loop = loop
        self._found: list[Result] = []
        self._future: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Whether every answer is there."""
        return len(self._found) >= self._size

    def tell(self, result: Result) -> None:
        self._found.append(result)
        if len(self._found) < self._size:
            return
        # Read after the last was put down, as future() looks for that after the future was: one of
        # the two sees the other.
        future = self._future
        if future is None:
            return
        if _running_loop() is self._loop:
            _wake(future)
        else:
            # The loop may have been closed, with whoever waited.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_wake, future)

    def future(self) -> asyncio.Future[None]:
        """Return what is done with the last answer."""
        self._future = self._loop.create_future()
        if self.done:
            _wake(self._future)
        return self._future

    def entries(self) -> list[Entry]:
        """Return the answers, once every one is there.

        Raises:
            HoldfastError: the first refusal among them.
        """
        for each in self._found:
            if isinstance(each, HoldfastError):
                raise each
        return cast("list[Entry]", self._found)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def next_count(entries: int, size: int, left: int) -> int:
    """Return how many entries to ask for next, after *entries* of together *size* bytes of data.

    Nobody knows how large they are before they are here, so reads begin small and grow.
    """
    if not entries:
        return min(_FIRST_READ, left)
    fitting = max(REPLY_BYTES * entries // max(size, 1), 1)
    return min(fitting, _GROWTH * entries, left)


def milliseconds(seconds: float) -> int:
    """Return a time to live as Redis takes it, at least 1 ms.

    Raises:
        ValueError: *seconds* is no finite number.
    """
    if not math.isfinite(seconds):
        raise ValueError("a time to live is a finite number of seconds")
    return max(int(seconds * 1000), 1)


def _checked_keys(prefix: str, template: str, run_id: str) -> Keys:
    return Keys.of(prefix, template, check_run_id(run_id))


def _in_a_row(results: Sequence[Result]) -> list[Entry]:
    """What a reader may take as it is; empty where it must look, because a number is not known."""
    entries = [result for result in results if isinstance(result, Entry)]
    for entry in entries:
        if not entry.n:
            return []
    return entries


def _log_refused(run_id: str, batch: Sequence[Waiting], results: Sequence[Result]) -> None:
    # What was never acknowledged is told to whoever waits for it.
    told = zip(batch, results, strict=True)
    refused = [
        error for waiting, error in told if waiting.base and isinstance(error, HoldfastError)
    ]
    if refused:
        log.warning(
            "%d of %d events that waited for Redis were refused for the run %r: %s",
            len(refused),
            len(batch),
            run_id,
            refused[0],
        )
