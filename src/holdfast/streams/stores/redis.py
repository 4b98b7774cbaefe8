"""The event store in Redis: a stream and one meta key per run, written by one guarded script.

Reading and asking live here; what is put together elsewhere: ``sending`` has what is published
written, ``flush`` what waited for Redis, ``redis_holds`` says who publishes what, and
``redis_bell`` hears what others wrote.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from holdfast import signals
from holdfast.errors import HoldfastError, RedisReplyError
from holdfast.forks import watch_forks
from holdfast.link import Link, Script
from holdfast.streams.event import MAX_PART, EventId, check_run_id
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
from holdfast.streams.stores import replies
from holdfast.streams.stores.adoption import Dated, move_in
from holdfast.streams.stores.bell import LocalBells
from holdfast.streams.stores.flush import Flush
from holdfast.streams.stores.lost import Losses
from holdfast.streams.stores.outbox import Outbox
from holdfast.streams.stores.pubsub import Transports
from holdfast.streams.stores.redis_bell import RedisDoorbell
from holdfast.streams.stores.redis_holds import RedisHolds
from holdfast.streams.stores.replies import Keys
from holdfast.streams.stores.sending import Sender
from holdfast.streams.stores.writes import MAX_KNOWN, Limits, Writes, in_a_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.settings import Settings
    from holdfast.streams.hold import Claim, Hold, StopAnswer

REPLY_BYTES = 1 << 19
"""What one read aims at: a reply of a hundred megabytes would outlast every deadline."""

_FIRST_READ, _GROWTH = 16, 8


class RedisEventStore(EventStore):
    """Events in Redis Streams, shared by all processes.

    Args:
        link: the supervised link.
        settings: the ``STREAM_*`` variables and ``KEY_PREFIX``.
    """

    def __init__(self, link: Link, settings: Settings) -> None:
        self.max_event_bytes = settings.stream_max_event_bytes
        self.transports = Transports(settings)
        self._link = link
        self._look_script = Script.load("stream_look")
        self._audit = Script.load("stream_audit")
        self._delete = Script.load("stream_delete")
        self._keys = lru_cache(MAX_KNOWN)(
            partial(_checked_keys, settings.key_prefix, settings.stream_key)
        )
        self._limits = Limits.of(settings)
        self._bells = LocalBells()
        self._outbox = Outbox(settings.stream_journal, settings.stream_max_run_bytes)
        self._writes = Writes(self._limits, self._keys, self.transports)
        self._sender = Sender(link, settings, self._keys, self._outbox, self._writes, self._bells)
        kept = self._limits.kept
        self._holds = RedisHolds(link, self._keys, lease=settings.stream_lease, kept=kept)
        Losses(link, self._outbox, self._keys)
        Flush(link, self._outbox, self._writes, self._bells)  # also what that put back
        # Each by itself: the link has them write after this is gone.
        for part in (self._bells, self.transports, self._outbox, self._writes, self._sender):
            watch_forks(part)
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
        return await self._sender.append(run_id, drafts, owner, life) if drafts else []

    def append_sync(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        self._keys(run_id)
        return self._sender.append_sync(run_id, drafts, owner, life)

    async def write(
        self, run_id: str, drafts: Sequence[Draft], *, once: Once | None = None
    ) -> list[Entry]:
        self._keys(run_id)
        if not drafts:
            return []
        options = [] if once is None else ["key", once.key, "body", once.body]
        reply = await self._write_now(run_id, replies.NOBODY, 0, drafts, options)
        entries = replies.written(run_id, drafts, reply)
        self._bells.ring(run_id, News(entries[0].life, in_a_row(entries)))
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
        writes = self._writes
        while True:
            call = writes.now(run_id, producer, first, drafts, options, owner)
            reply = await self._run(run_id, writes.publish, *call)
            if writes.learn(run_id, reply) != b"pubsub":
                return reply

    def pending(self, run_id: str) -> Pending | None:
        found = self._outbox.pending(run_id)
        if found is None:
            return None
        return replace(found, entries=tuple(self._writes.marked(run_id, found.entries)))

    def accepted(self, run_id: str) -> int:
        return self._outbox.accepted(run_id)

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
            call = self._writes.now(run_id, self._outbox.producer, 0)
            await self._run(run_id, self._writes.publish, *call)
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

    # -- whole runs

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
        call = self._writes.heard(run_id, self._outbox.producer, ended=ended)
        await self._run(run_id, self._writes.publish, *call)

    async def set_expire(self, run_id: str, seconds: float) -> bool:
        keys = self._keys(run_id)
        stream_ms = milliseconds(seconds)
        kept, *_ = await self._link.pipeline(
            [
                ("PEXPIRE", keys.stream, stream_ms),
                ("PEXPIRE", keys.meta, stream_ms + self._limits.meta_extra),
                # The next event sets the expiry anew, however soon it comes.
                ("HDEL", keys.meta, "kept"),
            ]
        )
        if isinstance(kept, HoldfastError):
            raise kept
        return bool(kept == 1)

    async def delete(self, run_id: str) -> bool:
        keys = self._keys(run_id)
        args = (keys.bell, self._limits.kept)
        removed = await self._run(run_id, self._delete, [keys.stream, keys.meta], args)
        self._outbox.forget(run_id)
        self.transports.forget(run_id)
        self._bells.ring(run_id, News())
        return bool(removed == 1)

    # -- who publishes, and who listens

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

    def doorbell(self, ring: Ring, missed: Callable[[], None]) -> Doorbell:
        return RedisDoorbell(
            self._link, self._keys, self.transports, self._outbox, self._bells, ring, missed
        )


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
