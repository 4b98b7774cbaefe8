"""The contract of an event store: what it keeps of a run, and the verbs that everybody uses.

The public verbs are written once, here, over a handful of primitives that each backend implements.
What is absent is an answer; exceptions are for refusals and for a Redis that is away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from holdfast import signals
from holdfast.errors import InvalidEvent
from holdfast.streams.cursor import Cursor, parse_position
from holdfast.streams.event import (
    TERMINAL_TYPES,
    ZERO,
    EventId,
    StreamEvent,
    check_run_id,
    check_type,
    decode_data,
    encode_data,
    moment,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from holdfast.settings import Settings
    from holdfast.streams.hold import Claim, Hold, StopAnswer
    from holdfast.streams.rollout import Transport

Status = Literal["absent", "open", "ended", "expired"]


class Draft(NamedTuple):
    """A checked and encoded event that is not written yet."""

    type: str
    data: bytes


class Once(NamedTuple):
    """Names one write, so that it is made once however often it is asked for.

    Attributes:
        key: the name, unique to the run.
        body: tells the events of this write from those of another one; no spaces. Letters after a
            dot tell in which form the same events came.
    """

    key: str
    body: str


class Entry(NamedTuple):
    """One event as a store holds it.

    Attributes:
        id: its place in the stream. For a provisional entry, the last stored id known before it.
        n: its dense number within the life of the run; 0 where another program wrote it.
        prev: the id of the entry before it, whether or not that is still kept; ``None`` where
            unknown. For a provisional entry, an id at or above that of its producer's entry before
            it; ``None`` where that is not stored either.
        producer, seq: who wrote it, and as its how-many-th of this run.
        created_ms: when it was written, in milliseconds since 1970.
        provisional: accepted by this process while Redis is away, and not stored yet.
        follows: of a provisional entry, the number of its producer's entry before it; 0 for none.
        sent: of a provisional entry, that it may be stored all the same, somewhere after ``id``.
        life: the life of the run it was written to, where the writer was told.
        stopping: the writer was told that the run has been asked to stop.
        kept: False for an event of a Pub/Sub run: it passes by once, and its id is no position.
    """

    id: EventId
    type: str
    data: bytes
    n: int = 0
    prev: EventId | None = None
    producer: str | None = None
    seq: int = 0
    created_ms: int = 0
    provisional: bool = False
    life: str | None = None
    stopping: bool = False
    kept: bool = True
    follows: int = 0
    sent: bool = False

    @property
    def terminal(self) -> bool:
        """Whether this event ends its run."""
        return self.type in TERMINAL_TYPES

    @property
    def public_id(self) -> str:
        """The id a caller of ``add`` gets; a provisional one is a cursor for every process."""
        base = f"{self.id.ms}-{self.id.seq}"
        return f"{base}~{self.producer}.{self.seq}" if self.provisional else base


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a store knows of a run without reading its events.

    Attributes:
        status: ``absent``, ``open``, ``ended`` or ``expired`` (its events are no longer kept).
        life: names this life of the run id; another life's ids mean nothing here.
        last: the id of the newest event ever written.
        n: how many events this life has had; ``length``: how many are kept.
        end: the id of the terminal event; ``end_origin``: its producer and number.
        owner: ``user:<id>`` or ``session:<id_hash>``, where the run has an owner.
        lapsed: who publishes the run and has let its lease lapse, or ``None``.
        transport: ``streams``, or ``pubsub`` for a run whose events are kept nowhere; ``None``
            until the first event decides it.
    """

    status: Status = "absent"
    life: str | None = None
    last: EventId = ZERO
    n: int = 0
    length: int = 0
    end: EventId | None = None
    end_origin: tuple[str, int] | None = None
    owner: str | None = None
    lapsed: str | None = None
    transport: Transport | None = None


class Known(NamedTuple):
    """What a reader knows of a run: the names are those of :class:`RunInfo`."""

    run_id: str
    last: EventId
    n: int
    life: str | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Pending:
    """The events of a run that this process accepted while Redis is away.

    Attributes:
        base: the last id that was stored before them, as far as this process knows.
        entries: what waits, oldest first.
        ended: whether the last of them ended the run.
        owner: the owner given by the publisher.
    """

    base: EventId
    entries: tuple[Entry, ...]
    ended: bool
    owner: str | None


@dataclass(frozen=True, slots=True)
class News:
    """What a doorbell says. Everything in it is a hint: a reader that doubts it asks the store.

    Attributes:
        life: the life of the run, where the bell knows it.
        entries: what was written, where it is at hand; else the reader fetches it.
        n: the number of the newest event, 0 where unknown.
    """

    life: str | None = None
    entries: Sequence[Entry] = ()
    n: int = 0


Ring = Callable[[str, News], None]
"""``ring(run_id, news)``: something happened to a run."""


class Doorbell(ABC):
    """Tells one hub which of its runs have news. A lost ring costs time, never an event."""

    @abstractmethod
    async def add(self, run_id: str) -> None:
        """Watch *run_id*; returns when what is written from now on will ring."""

    @abstractmethod
    async def discard(self, run_id: str) -> None:
        """Watch *run_id* no more."""

    async def settle(self, run_id: str) -> None:  # noqa: B027 - most bells need nothing of it
        """Take note that *run_id* uses Streams in this life: nothing comes by Pub/Sub alone."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of whatever the bell hangs on."""

    @abstractmethod
    def release(self) -> None:
        """Hear of nothing any more, without a running event loop: the one it hung on is gone."""


class EventStore(ABC):
    """Keeps the events of runs, in order, each under an id that only grows.

    Every method raises :class:`~holdfast.errors.InvalidEvent` for a run id or position that cannot
    exist, :class:`~holdfast.errors.RedisUnavailable` where the backend cannot answer (unavailable
    is not absent), and :class:`~holdfast.errors.CorruptData` where it holds something else.
    """

    max_event_bytes: int = 1048576

    @staticmethod
    def from_settings(settings: Settings | None = None) -> EventStore:
        """Return this process's event store for *settings* (default: the environment).

        Raises:
            ConfigurationError: a variable cannot work.
        """
        from holdfast.runtime import runtime
        from holdfast.streams.select import default_store

        return default_store(runtime(settings))

    async def add(self, run_id: str, type: str, data: Any) -> StreamEvent:  # noqa: A002 - the wire's own name
        """Append one event and return it with its id.

        Raises:
            InvalidEvent, EventTooLarge: refused before any I/O.
            RunEnded, RunExpired: nothing can follow.
            JournalFull: Redis is away, and so much waits already that this event was not accepted.
        """
        draft = self.draft(type, data)
        writing: Awaitable[list[Entry]] = self.append(check_run_id(run_id), [draft])
        if signals.observers:
            from holdfast.streams import observed  # which is above this

            writing = observed.publish(run_id, 1, writing)
        entries = await writing
        return to_event(run_id, entries[0], data)

    async def get_events(
        self,
        run_id: str,
        start_id: str | None = None,
        end_id: str | None = None,
        limit: int = 100,
    ) -> list[StreamEvent]:
        """Return up to *limit* events between two ids, both inclusive; an absent run has none.

        Args:
            start_id: an id, or ``0`` or ``None`` for the start.
            end_id: an id, or ``None`` for the end.
            limit: the most to return; below 1 none are.
        """
        start, end = _position(start_id).base, _position(end_id).base if end_id else None
        entries = await self.read(check_run_id(run_id), start, end, limit)
        return [to_event(run_id, entry) for entry in entries]

    async def get_events_after(
        self, run_id: str, last_id: str, limit: int = 100
    ) -> list[StreamEvent]:
        """Return up to *limit* events that follow *last_id* (an id, or ``0`` for the start).

        A provisional id is a position too: what its producers had written by then is left out.
        """
        after, found = _position(last_id), list[Entry]()
        start = after.base.next()
        while len(found) < limit:
            wanted = limit - len(found)
            page = await self.read(check_run_id(run_id), start, None, wanted)
            found += [entry for entry in page if not after.has_seen(entry.producer, entry.seq)]
            if len(page) < wanted:
                break
            start = page[-1].id.next()
        return [to_event(run_id, entry) for entry in found]

    async def exists(self, run_id: str) -> bool:
        """Whether the run's events are there to be read; those of a Pub/Sub run never are."""
        info = await self.describe(check_run_id(run_id))
        return info.status in {"open", "ended"} and info.transport != "pubsub"

    async def status(self, run_id: str) -> Status:
        """Return ``absent``, ``open``, ``ended`` or ``expired``."""
        return (await self.describe(check_run_id(run_id))).status

    def draft(self, type: str, data: Any, *, ours: bool = False) -> Draft:  # noqa: A002 - the wire's own name
        """Check and encode one event.

        Raises:
            InvalidEvent, EventTooLarge: it can never be written.
        """
        return Draft(check_type(type, ours=ours), encode_data(data, self.max_event_bytes))

    def pending(self, run_id: str) -> Pending | None:
        """Return what this process holds of a run that is not stored yet, or ``None``."""
        return None

    def accepted(self, run_id: str) -> int:
        """Return which of this process's events of a run was accepted last; 0 if none ever waits.

        What comes after it has a higher :attr:`Entry.seq`.
        """
        return 0

    @property
    def available(self) -> bool:
        """Whether the backend can be asked now."""
        return True

    async def note_foreign(  # noqa: B027 - where no other program can publish there is nothing
        self, run_id: str, *, ended: bool
    ) -> None:
        """Take note that another program publishes *run_id* by Pub/Sub, or has *ended* it so.

        A run that has begun is left as it is, but for its end. Saying it twice changes nothing.
        """

    @abstractmethod
    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        """Append *drafts* in order, all or none, and ring. The first write of a run creates it.

        Args:
            owner: kept if this write creates the run.
            life: refuse if the run was deleted since this life. A store that lost its data goes on
                in a new life, which the entries name.

        Raises:
            RunEnded, RunExpired, JournalFull.
        """

    @abstractmethod
    def append_sync(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        owner: str | None = None,
        life: str | None = None,
    ) -> list[Entry]:
        """As :meth:`append`, for a thread without a running event loop; it blocks that thread.

        Any number of threads may call, together with any number of loops: order and numbers of a
        run are one over all of them.
        """

    @abstractmethod
    async def write(
        self, run_id: str, drafts: Sequence[Draft], *, once: Once | None = None
    ) -> list[Entry]:
        """Append *drafts* now or not at all, and ring: nothing is kept to be written later.

        Args:
            once: a write of that name is made once in the life of the run; asked for again, it is
                answered the same. As many names are remembered as events are kept.

        Raises:
            RunEnded, RunExpired: nothing can follow.
            IdempotencyKeyReused: the name is that of other events.
            RedisUnavailable: where the answer was lost, the events may be written.
        """

    @abstractmethod
    async def read(
        self,
        run_id: str,
        start: EventId,
        end: EventId | None,
        limit: int,
        *,
        max_bytes: int | None = None,
    ) -> list[Entry]:
        """Return up to *limit* entries with ids from *start* to *end*, inclusive, oldest first.

        Args:
            max_bytes: return fewer where their data is larger together, but at least one: then
                only an empty answer says that nothing follows. Default: no bound.
        """

    @abstractmethod
    async def describe(self, run_id: str) -> RunInfo:
        """Return what is known of a run, what other programs have written to it included."""

    async def changed(self, known: Sequence[Known]) -> list[str]:
        """Return which of the runs may not be as they are known, and want to be described.

        Whoever cannot tell more cheaply than by describing them names them all, as this does.
        """
        return [each.run_id for each in known]

    @abstractmethod
    async def set_expire(self, run_id: str, seconds: float) -> bool:
        """Keep the run's events for *seconds* from now. False where there are none."""

    @abstractmethod
    async def delete(self, run_id: str) -> bool:
        """Remove the run's events and open the way for a next life of its id. False: none there."""

    @abstractmethod
    async def claim(self, hold: Hold, *, owner: str | None = None, start: bool = False) -> Claim:
        """Take a run for whoever has *hold*, in one atomic step, and tell *hold* of it.

        An absent run begins: it is open from then on, without an event. A claim of the same hold
        again is the same claim.

        Args:
            owner: kept if this begins the run.
            start: take the run only if it was absent; else the lease of an open run is taken over
                from whoever has it.
        """

    @abstractmethod
    def claim_sync(self, hold: Hold, *, owner: str | None = None, start: bool = False) -> Claim:
        """As :meth:`claim`, for a thread without an event loop; it blocks the thread."""

    @abstractmethod
    def attend(self, hold: Hold) -> None:
        """From now on keep the lease of *hold*, and tell it when its run is asked to stop.

        A run that was asked before tells it too. It ends with :meth:`leave`, or when nobody refers
        to *hold* any more. Any thread; it never waits.
        """

    @abstractmethod
    def leave(self, hold: Hold) -> None:
        """Attend to *hold* no more. What it held lapses, unless the run has ended."""

    @abstractmethod
    async def request_stop(self, run_id: str) -> StopAnswer:
        """Ask a run to stop: a mark that stays with it, and a ring for whoever publishes it.

        Returns:
            ``requested``, also for an absent run: its next life finds the mark, if it begins within
            an hour. ``ended`` or ``expired`` where it is too late.
        """

    @abstractmethod
    def doorbell(self, ring: Ring, missed: Callable[[], None]) -> Doorbell:
        """Hang up a bell on the running event loop.

        Args:
            ring: called in any thread.
            missed: called in any thread when rings may have been lost: look at every watched run.
        """


def to_event(run_id: str, entry: Entry, data: Any = ...) -> StreamEvent:
    """Return *entry* as callers see it; *data* saves decoding where its value is at hand."""
    value = decode_data(entry.data) if data is ... else data
    created = moment(entry.created_ms or entry.id.ms)
    return StreamEvent(entry.public_id, run_id, entry.type, value, created)


def within_bytes(entries: Sequence[Entry], max_bytes: int) -> list[Entry]:
    """Return as many of *entries* as have *max_bytes* bytes of data together, at least one."""
    size = 0
    for index, entry in enumerate(entries):
        size += len(entry.data)
        if index and size > max_bytes:
            return list(entries[:index])
    return list(entries)


def _position(text: object) -> Cursor:
    position = parse_position(text, allow_tail=False) if isinstance(text, str | None) else None
    if not isinstance(position, Cursor):
        raise InvalidEvent(
            f"{str(text)[:64]!r} is no event id; an id is '<milliseconds>-<number>', or '0' for the"
            " start"
        )
    return position
