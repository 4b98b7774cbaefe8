"""The event store in Redis: a stream and one meta key per run, written by one guarded script.

Commands and replies are built and read by pure functions; sending them is a line each. What Redis
cannot take now waits in the outbox and is written, in order and once, when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.errors import (
    CorruptData,
    HoldfastError,
    RedisReplyError,
    RedisUnavailable,
    RunEnded,
    RunExpired,
)
from holdfast.link import Link, LinkState, LinkStatus, Listener, Recovery, Reply, Script
from holdfast.streams.bell import LocalBells, LocalDoorbell
from holdfast.streams.event import ZERO, EventId, normalise_data, parse_id
from holdfast.streams.outbox import Answer, Outbox, Waiting
from holdfast.streams.store import (
    Doorbell,
    Draft,
    Entry,
    EventStore,
    News,
    Pending,
    Ring,
    RunInfo,
    stored,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.settings import Settings

log = logging.getLogger("holdfast.streams")

META_EXTRA = 86400
_META_FIELDS = ("life", "n", "last", "length", "end", "gone", "owner")


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one run in Redis; all in one cluster slot, because the braces hold the whole stream key."""

    stream: str
    meta: str
    bell: str

    @classmethod
    def of(cls, prefix: str, template: str, run_id: str) -> Keys:
        stream = prefix + template.replace("{run_id}", run_id)
        return cls(stream, f"{{{stream}}}:meta", f"{{{stream}}}:bell")


class RedisEventStore(EventStore):
    """Events in Redis Streams, shared by all processes.

    Args:
        link: the supervised link.
        settings: the ``STREAM_*`` variables and ``KEY_PREFIX``.
    """

    def __init__(self, link: Link, settings: Settings) -> None:
        self.max_event_bytes = settings.stream_max_event_bytes
        self._link = link
        self._settings = settings
        self._publish = Script.load("stream_publish")
        self._delete = Script.load("stream_delete")
        self._bells = LocalBells()
        self._outbox = Outbox(settings.stream_journal)
        self._patience = 4 * settings.redis_timeout
        link.on_recovery("streams", self._flush)
        link.on_transition(self._on_transition)

    def __repr__(self) -> str:
        return f"<RedisEventStore {self._link.status.state.name} {self._outbox!r}>"

    @property
    def available(self) -> bool:
        return self._link.up

    @property
    def producer(self) -> str:
        """The name of this process life in the entries it writes."""
        return self._outbox.producer

    # -- writing

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        if not self._link.up:
            await self._link.ready()
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Entry]] = [loop.create_future() for _ in drafts]
        tell = [_teller(loop, answer) for answer in answers]
        self._outbox.put(
            run_id, drafts, tell, owner=owner, life=life, now_ms=time.time_ns() // 1_000_000
        )
        self._send(run_id)
        if len(answers) == 1:
            return [await answers[0]]
        results = await asyncio.gather(*answers, return_exceptions=True)
        return [_raise_or_return(result) for result in results]

    def _send(self, run_id: str) -> None:
        """Send the next batch of a run, if none is on its way; what comes back sends the one after."""
        batch = self._outbox.take(run_id, time.monotonic(), self._patience)
        if not batch:
            return
        keys, args = self._publish_call(run_id, batch)
        self._await_reply(
            run_id, batch, self._publish.evalsha(keys, args), self._publish.eval(keys, args)
        )

    def _await_reply(
        self,
        run_id: str,
        batch: list[Waiting],
        command: tuple[Any, ...],
        again: tuple[Any, ...] | None,
    ) -> None:
        def on_reply(future: asyncio.Future[Reply]) -> None:
            error = RedisUnavailable("cancelled") if future.cancelled() else future.exception()
            if (
                isinstance(error, RedisReplyError)
                and error.code == "NOSCRIPT"
                and again is not None
            ):
                self._await_reply(run_id, batch, again, None)
            else:
                self._settle(run_id, batch, error or future.result())

        self._link.send(*command).add_done_callback(on_reply)

    def _settle(self, run_id: str, batch: list[Waiting], reply: Any) -> None:
        if isinstance(reply, RedisUnavailable):
            entries = self._outbox.unavailable(run_id)
            self._bells.ring(run_id, News(None, entries))
            # The link may have come back before this answer was looked at; nobody else would send
            # then.
            if self._link.up:
                self._send(run_id)
            return
        life, results = _results(run_id, batch, reply)
        self._outbox.done(run_id, batch, results)
        self._bells.ring(run_id, News(life, _in_a_row(results)))
        self._send(run_id)

    def _publish_call(self, run_id: str, batch: Sequence[Waiting]) -> tuple[list[str], list[Any]]:
        keys = self.keys(run_id)
        head = batch[0] if batch else None
        args = [
            *(keys.bell, self._outbox.producer, head.entry.seq if head else 0),
            *(self._settings.stream_maxlen, self._settings.stream_max_run_bytes),
            *self._retentions(),
            *(
                secrets.token_hex(8),
                (head.life if head else None) or "",
                (head.owner if head else None) or "",
            ),
        ]
        for waiting in batch:
            args += (waiting.entry.type, waiting.entry.data)
        return [keys.stream, keys.meta], args

    def _retentions(self) -> tuple[int, int]:
        retention = self._settings.stream_retention
        return int(retention * 1000), int(max(retention, META_EXTRA) * 1000)

    # -- coming back

    def _on_transition(self, status: LinkStatus) -> None:
        if status.state is LinkState.UP and self._outbox.waiting_runs():
            self._flush(_Direct(self._link))

    def _flush(self, redis: Recovery | _Direct) -> None:
        """Write what waits, run by run, in order. In the supervisor's thread, before reads are served."""
        for run_id in self._outbox.waiting_runs():
            while batch := self._outbox.head(run_id):
                keys, args = self._publish_call(run_id, batch)
                try:
                    reply: Any = redis.run(self._publish, keys, args)
                except RedisReplyError as error:
                    reply = error
                life, results = _results(run_id, batch, reply)
                _tell_refused(run_id, batch, results)
                self._outbox.done(run_id, batch, results)
                self._bells.ring(run_id, News(life))

    # -- reading

    async def read(
        self, run_id: str, start: EventId, end: EventId | None, limit: int
    ) -> list[Entry]:
        if limit <= 0:
            return []
        stop = "+" if end is None else str(end)
        command = ("XRANGE", self.keys(run_id).stream, str(start), stop, "COUNT", limit)
        return [_entry(item) for item in await self._ask(run_id, *command)]

    async def describe(self, run_id: str) -> RunInfo:
        info, foreign = await self._look(run_id)
        if not foreign:
            return info
        keys, args = self._publish_call(run_id, [])
        await self._link.run(self._publish, keys, args)
        return (await self._look(run_id))[0]

    async def _look(self, run_id: str) -> tuple[RunInfo, bool]:
        keys = self.keys(run_id)
        await self._link.ready()
        meta, length = await asyncio.gather(
            self._ask(run_id, "HMGET", keys.meta, *_META_FIELDS),
            self._ask(run_id, "XLEN", keys.stream),
        )
        return _info(meta, length)

    async def _ask(self, run_id: str, *command: Any) -> Any:
        try:
            return await self._link.execute(*command)
        except RedisReplyError as error:
            if error.code == "WRONGTYPE":
                stream = self.keys(run_id).stream
                raise CorruptData(
                    f"the key {stream!r} of the run {run_id!r} holds something else"
                ) from error
            raise

    async def set_expire(self, run_id: str, seconds: float) -> bool:
        keys = self.keys(run_id)
        stream_ms = max(int(seconds * 1000), 1)
        kept, _ = await self._link.pipeline(
            [
                ("PEXPIRE", keys.stream, stream_ms),
                ("PEXPIRE", keys.meta, stream_ms + self._retentions()[1]),
            ]
        )
        if isinstance(kept, HoldfastError):
            raise kept
        return kept == 1

    async def delete(self, run_id: str) -> bool:
        keys = self.keys(run_id)
        args = (keys.bell, sum(self._retentions()))
        removed = await self._link.run(self._delete, [keys.stream, keys.meta], args)
        self._outbox.forget(run_id)
        self._bells.ring(run_id, News())
        return removed == 1

    def pending(self, run_id: str) -> Pending | None:
        return self._outbox.pending(run_id)

    def doorbell(self, ring: Ring, missed: Callable[[], None]) -> Doorbell:
        return _RedisDoorbell(self, self._link, self._bells, ring, missed)

    def keys(self, run_id: str) -> Keys:
        """The names that *run_id* has in Redis."""
        return Keys.of(self._settings.key_prefix, self._settings.stream_key, run_id)


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
        self._runs: dict[str, str] = {}
        self._listener = Listener(link, self._on_message, missed)

    async def add(self, run_id: str) -> None:
        await self._local.add(run_id)
        channel = self._store.keys(run_id).bell
        self._runs[channel] = run_id
        await self._listener.add(channel)

    async def discard(self, run_id: str) -> None:
        await self._local.discard(run_id)
        channel = self._store.keys(run_id).bell
        if self._runs.pop(channel, None) is not None:
            await self._listener.discard(channel)

    async def aclose(self) -> None:
        self._local.release()
        await self._listener.aclose()

    def release(self) -> None:
        self._local.release()

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        run_id = self._runs.get(channel.decode())
        if run_id is not None:
            self._ring(run_id, _news(payload))


@dataclass(frozen=True, slots=True)
class _Direct:
    """The link's own synchronous door, for a flush after a hiccup that was no outage."""

    link: Link

    def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Any]) -> Reply:
        return self.link.run_sync(script, keys, args)


def _teller(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Entry]) -> Answer:
    """Return what tells *future* in whatever thread the answer is found."""

    def settle(result: Entry | HoldfastError) -> None:
        if future.done():
            return
        if isinstance(result, HoldfastError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def tell(result: Entry | HoldfastError) -> None:
        if _running_loop() is loop:
            settle(result)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(settle, result)

    return tell


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _results(
    run_id: str, batch: Sequence[Waiting], reply: Any
) -> tuple[str | None, list[Entry | HoldfastError]]:
    """Read the script's reply: the life of the run, and what became of each event of the batch."""
    if isinstance(reply, BaseException):
        error = reply if isinstance(reply, HoldfastError) else RedisReplyError("ERR", str(reply))
        return None, [error] * len(batch)
    status, raw_life, n, previous, written, *ids = reply
    life = raw_life.decode() or None
    refusal = _refusal(run_id, status)
    first_n = n - (len(ids) - written) + 1
    results: list[Entry | HoldfastError] = []
    prev = _id(previous)
    for index, waiting in enumerate(batch):
        if index >= len(ids):
            results.append(refusal)
        elif index < written:
            # Written by an earlier try: its number in the run is not told again, so readers go and
            # look.
            event_id = _id(ids[index]) if ids[index] else waiting.entry.id
            results.append(stored(waiting.entry, event_id, 0, ZERO, life))
        else:
            event_id = _id(ids[index])
            results.append(stored(waiting.entry, event_id, first_n + index - written, prev, life))
            prev = event_id
    return life, results


def _news(payload: bytes) -> News:
    """Read a doorbell: the life of the run and the number of its newest event."""
    life, _, number = payload.partition(b":")
    return News(life.decode("ascii", "replace"), n=int(number) if number.isdigit() else 0)


def _refusal(run_id: str, status: bytes) -> HoldfastError:
    if status == b"expired":
        return RunExpired(f"the run {run_id!r} has expired; delete it to use its id again")
    if status == b"fenced":
        return RunEnded(
            f"the run {run_id!r} was deleted; this publisher belongs to its earlier life"
        )
    return RunEnded(f"the run {run_id!r} has ended; nothing can follow its terminal event")


def _in_a_row(results: Sequence[Entry | HoldfastError]) -> list[Entry]:
    """What a reader may take as it is; empty where it must look, because a number is not known."""
    entries = [result for result in results if isinstance(result, Entry)]
    return entries if all(entry.n for entry in entries) else []


def _tell_refused(
    run_id: str, batch: Sequence[Waiting], results: Sequence[Entry | HoldfastError]
) -> None:
    refused = [error for error in results if isinstance(error, HoldfastError)]
    if refused:
        log.warning(
            "%d of %d events that waited for Redis were refused for the run %r: %s",
            len(refused),
            len(batch),
            run_id,
            refused[0],
        )


def _id(raw: bytes) -> EventId:
    event_id = parse_id(raw.decode())
    if event_id is None:
        raise CorruptData(f"Redis answered {raw!r} where a stream id belongs")
    return event_id


def _entry(item: Any) -> Entry:
    """Read one element of an XRANGE reply; what another program wrote is made to fit a frame."""
    event_id, fields = _id(item[0]), item[1]
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    kind = values.get(b"type", b"message").decode("utf-8", "replace")
    data = values.get(b"data", b"null")
    number = values.get(b"n")
    if number is None:
        kind = "".join(kind.split()) or "message"
        return Entry(event_id, kind, normalise_data(data), created_ms=event_id.ms)
    return Entry(
        event_id,
        kind,
        data,
        int(number),
        _id(values[b"q"]),
        values[b"p"].decode(),
        int(values[b"s"]),
        event_id.ms,
    )


def _info(meta: Sequence[bytes | None], length: int) -> tuple[RunInfo, bool]:
    """Return what meta says of a run, and whether another program wrote to it since meta was last told."""
    life, n, last, known, end, gone, owner = meta
    newest = _id(last) if last else ZERO
    if length != int(known or 0) and length > 0:
        return RunInfo(), True
    if life is None or gone is not None:
        return RunInfo(life=life.decode() if life else None, last=newest), False
    count = int(n or 0)
    ended = end.decode().split(" ") if end else None
    if count and not length:
        status = "expired"
    else:
        status = "ended" if ended else "open"
    info = RunInfo(
        status,  # type: ignore[arg-type]
        life.decode(),
        newest,
        count,
        length,
        _id(ended[0].encode()) if ended else None,
        (ended[1], int(ended[2])) if ended else None,
        owner.decode() if owner else None,
    )
    return info, False


def _raise_or_return(result: Entry | BaseException) -> Entry:
    if isinstance(result, BaseException):
        raise result
    return result
