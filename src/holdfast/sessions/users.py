"""Which sessions a user has: kept beside the sessions, for lists and revocation alone.

Never trusted to let anybody in. Each verb is a *plan*: it yields what is to be asked of Redis and
is sent the replies, so that the asynchronous and the synchronous index go by the same words. In
the memory store a plan yields nothing.

An entry is written before its session, so that no session is missed; so one without a session is
believed for a minute, and pruned after it.
"""

from __future__ import annotations

import abc
import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from holdfast.errors import CorruptData, RedisReplyError, RedisUnavailable, SessionUnavailable
from holdfast.forks import ForkSafeLock, watch_forks
from holdfast.sessions.outage.batches import run_groups
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.stores import calls
from holdfast.sessions.stores.encryption import EncryptedSessionStore
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.sessions.stores.sync import blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from holdfast.link import Arg, Link, Recovery, Reply, Script
    from holdfast.sessions.store import Record, SessionStore

logger = logging.getLogger("holdfast.sessions")

T = TypeVar("T")

#: How many sessions of one user are kept in the index; those that end first make room.
MAX_PER_USER = 1000
#: Seconds for which an entry is believed though its session is not there yet.
UNBORN_SECONDS = 60.0
_MAX_USERS = 100_000
_MAX_MISSED = 10_000
_MAX_TEXT = 256

Command = tuple["Arg", ...]
Plan = Generator[Sequence[Command] | calls.Call, Sequence[Any], T]


class Origin(NamedTuple):
    """Where a session comes from, as its index entry says.

    Attributes:
        user_agent: as the browser named itself, cut to 256 printable characters.
        address: of the client; only where ``SESSION_INDEX_ADDRESS`` is set.
    """

    user_agent: str | None = None
    address: str | None = None

    @classmethod
    def of(cls, scope: Mapping[str, Any] | None, *, address: bool) -> Origin:
        """Return what an ASGI *scope* says of it; of none, nothing."""
        if scope is None:
            return cls()
        agents = (value for name, value in scope["headers"] if name == b"user-agent")
        agent = next(agents, b"").decode("latin-1")[:_MAX_TEXT]
        client = scope.get("client") if address else None
        # A terminal that shows it must not be told what to do (CWE-150).
        shown = "".join(each if each.isprintable() else "?" for each in agent)
        return cls(shown or None, str(client[0]) if client else None)


@dataclass(frozen=True)
class SessionInfo:
    """What the index tells of one session. Nothing in it opens a session.

    Attributes:
        id_hash: names it, as ``Session.id_hash``.
        created_at, last_seen_at, expires_at: UTC. Seen is its last write, or with an idle timeout
            its last request, to within the touch interval.
        user_agent, address: where it was logged in; ``None`` where that is not kept.
        sizes: by top-level key, the bytes that its value takes; only from ``show()``.
    """

    id_hash: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    user_agent: str | None = None
    address: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        # Who was where is for the page that shows it, not for logs and tracebacks (CWE-532).
        return f"<SessionInfo {self.id_hash[:8]}… seen {self.last_seen_at:%Y-%m-%d %H:%M}>"


class _Entry(NamedTuple):
    """What the index holds of one session; times in seconds since the epoch."""

    ends_at: float
    noted_at: float
    origin: Origin


class UserIndex(abc.ABC):
    """The index beside one store, as plans; each may raise ``SessionUnavailable``."""

    link: Link | None = None

    @abc.abstractmethod
    def noting(self, user: str, id_hash: str, origin: Origin, life: float) -> Plan[None]:
        """Note a session of *life* seconds at most, which is about to be stored."""

    @abc.abstractmethod
    def forgetting(self, user: str, id_hashes: Sequence[str]) -> Plan[None]:
        """Drop entries of *user*; the sessions stay as they are."""

    @abc.abstractmethod
    def listing(self, user: str, idle: float) -> Plan[tuple[list[SessionInfo], list[str]]]:
        """Return the sessions of *user*, newest first, and the ids noted that are not stored yet.

        What is noted and not there any more is pruned. *idle* is the idle timeout in seconds.
        """

    @abc.abstractmethod
    def showing(self, id_hash: str, idle: float) -> Plan[SessionInfo | None]:
        """Return one session with the sizes of its values; ``None`` where it is not there."""

    @abc.abstractmethod
    def revoking(self, id_hash: str) -> Plan[bool]:
        """Destroy a session; false where there was none."""

    @abc.abstractmethod
    def missed(self, user: str, id_hash: str, origin: Origin, life: float) -> None:
        """Keep what could not be noted, for when it can."""


class MemoryUserIndex(UserIndex):
    """The index of a memory store: as bounded, as short-lived, and as alone."""

    def __init__(self, store: MemorySessionStore) -> None:
        self._store = store
        self._users: OrderedDict[str, OrderedDict[str, _Entry]] = OrderedDict()
        self.forked()
        watch_forks(self)

    def forked(self) -> None:
        """Begin, also in a forked child: whoever held the lock may not exist there."""
        self._lock = threading.Lock()

    def noting(self, user: str, id_hash: str, origin: Origin, life: float) -> Plan[None]:
        """See :meth:`UserIndex.noting`."""
        now = time.time()
        with self._lock:
            entries = self._users.setdefault(user, OrderedDict())
            self._users.move_to_end(user)
            entries[id_hash] = _Entry(now + life, now, origin)
            while len(entries) > MAX_PER_USER:
                del entries[min(entries, key=lambda each: entries[each].ends_at)]
            while len(self._users) > _MAX_USERS:
                self._users.popitem(last=False)
        return
        yield ()

    def forgetting(self, user: str, id_hashes: Sequence[str]) -> Plan[None]:
        """See :meth:`UserIndex.forgetting`."""
        with self._lock:
            entries = self._users.get(user, OrderedDict())
            for id_hash in id_hashes:
                entries.pop(id_hash, None)
            if not entries:
                self._users.pop(user, None)
        return
        yield ()

    def listing(self, user: str, idle: float) -> Plan[tuple[list[SessionInfo], list[str]]]:
        """See :meth:`UserIndex.listing`."""
        with self._lock:
            entries = dict(self._users.get(user, {}))
        found, absent = {}, []
        for id_hash, entry in entries.items():
            record = self._store.peek(id_hash, idle)
            if record is None:
                absent.append(id_hash)
            else:
                found[id_hash] = _info(id_hash, record, idle, entry.origin)
        unborn, gone = _parted(absent, entries, time.time())
        yield from self.forgetting(user, gone)
        return _newest_first(found.values()), unborn

    def showing(self, id_hash: str, idle: float) -> Plan[SessionInfo | None]:
        """See :meth:`UserIndex.showing`."""
        record = self._store.peek(id_hash, idle)
        return None if record is None else _info(id_hash, record, idle, sized=True)
        yield ()

    def revoking(self, id_hash: str) -> Plan[bool]:
        """See :meth:`UserIndex.revoking`."""
        return self._store.destroy(id_hash)
        yield ()

    def missed(self, user: str, id_hash: str, origin: Origin, life: float) -> None:
        """Nothing is ever missed: memory is always there."""


class RedisUserIndex(UserIndex):
    """The index in Redis: a hash of each user, whose key holds a hash of who that is."""

    def __init__(self, link: Link, prefix: str) -> None:
        self.link = link
        #: Told of each session that is revoked by :meth:`revoking`.
        self.on_revoked: Callable[[str], None] | None = None
        self._prefix = f"{prefix}sessions:"
        self._calls = calls.Calls(prefix)
        self._missed: OrderedDict[str, tuple[str, Origin, float]] = OrderedDict()
        self._noted: OrderedDict[str, tuple[str, Origin, float]] = OrderedDict()
        self.forked()
        watch_forks(self)
        link.on_recovery("session index", self.replay)

    def forked(self) -> None:
        """Begin, also in a forked child: what was missed is the parent's to write."""
        self._lock = threading.Lock()
        self._missed.clear()
        self._noted.clear()

    def name(self, user: str) -> str:
        """Return the key of a user's index."""
        return self._prefix + hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()

    def noting(self, user: str, id_hash: str, origin: Origin, life: float) -> Plan[None]:
        """See :meth:`UserIndex.noting`."""
        yield self._note(user, id_hash, origin, life)
        with self._lock:
            self._noted[id_hash] = (user, origin, time.time() + life)
            while len(self._noted) > _MAX_MISSED:
                self._noted.popitem(last=False)

    def _note(self, user: str, id_hash: str, origin: Origin, life: float) -> calls.Call:
        text = json.dumps(origin, separators=(",", ":"))
        args = (id_hash, max(1, round(life * 1000)), text, MAX_PER_USER)
        return calls.Call(_script(), (self.name(user),), args)

    def forgetting(self, user: str, id_hashes: Sequence[str]) -> Plan[None]:
        """See :meth:`UserIndex.forgetting`."""
        if id_hashes:
            yield [("HDEL", self.name(user), *id_hashes)]
        with self._lock:
            for each in id_hashes:
                self._noted.pop(each, None)

    def listing(self, user: str, idle: float) -> Plan[tuple[list[SessionInfo], list[str]]]:
        """See :meth:`UserIndex.listing`."""
        pairs, clock = yield [("HGETALL", self.name(user)), ("TIME",)]
        now = int(clock[0]) + int(clock[1]) / 1e6
        entries = _entries(pairs)
        metas = (
            (yield [("HGET", self._calls.name(each), calls.META) for each in entries])
            if entries
            else ()
        )
        found, absent = {}, []
        for (id_hash, entry), meta in zip(entries.items(), metas, strict=True):
            record = _record(meta)
            if record is None or now >= _end(record, idle):
                absent.append(id_hash)
            else:
                found[id_hash] = _info(id_hash, record, idle, entry.origin)
        unborn, gone = _parted(absent, entries, now)
        yield from self.forgetting(user, gone)
        return _newest_first(found.values()), unborn

    def showing(self, id_hash: str, idle: float) -> Plan[SessionInfo | None]:
        """See :meth:`UserIndex.showing`."""
        pairs, clock = yield [("HGETALL", self._calls.name(id_hash)), ("TIME",)]
        raw = _by_name(pairs)
        record = _record(raw.pop(calls.META, None))
        raw.pop(calls.OLD, None)
        if record is None or int(clock[0]) >= _end(record, idle):
            return None
        fields = {name.decode("utf-8", "replace"): data for name, data in raw.items()}
        return _info(id_hash, record._replace(fields=fields), idle, sized=True)

    def revoking(self, id_hash: str) -> Plan[bool]:
        """See :meth:`UserIndex.revoking`."""
        (there,) = yield self._calls.delete(id_hash)
        if self.on_revoked is not None:
            self.on_revoked(id_hash)
        return bool(there == 1)

    def missed(self, user: str, id_hash: str, origin: Origin, life: float) -> None:
        """See :meth:`UserIndex.missed`."""
        with self._lock:
            self._missed[id_hash] = (user, origin, life)
            while len(self._missed) > _MAX_MISSED:
                self._missed.popitem(last=False)

    def replay(self, recovery: Recovery) -> None:
        """Note what could not be noted while Redis was away; the link calls it.

        Raises:
            RedisUnavailable: it is gone again; what was not noted still waits.
        """
        with self._lock:
            waiting = list(self._missed.items())
        notes = [
            self._note(user, id_hash, origin, life) for id_hash, (user, origin, life) in waiting
        ]
        for (id_hash, missed), _ in zip(waiting, _all_noted(recovery, notes), strict=True):
            with self._lock:
                if self._missed.get(id_hash) is missed:
                    del self._missed[id_hash]

    def note_again(self, recovery: Recovery) -> None:
        """Note what was noted here: Redis has lost it, and was given its sessions back."""
        now = time.time()
        with self._lock:
            noted = list(self._noted.items())
        notes = [
            self._note(user, id_hash, origin, end - now)
            for id_hash, (user, origin, end) in noted
            if end > now
        ]
        for _ in _all_noted(recovery, notes):
            pass


def _all_noted(recovery: Recovery, notes: Sequence[calls.Call]) -> Iterator[None]:
    """Have all *notes* made, many in one round trip: an outage may have seen thousands of logins.

    Raises:
        RedisUnavailable: Redis is gone.
    """
    for reply in run_groups(recovery, [(each,) for each in notes]):
        if isinstance(reply, RedisReplyError):
            logger.error("the index of a user's sessions cannot be written: %s", reply.code)
        yield


def user_index(store: SessionStore) -> UserIndex | None:
    """Return the index beside *store*, the same at every call; ``None`` for other people's."""
    while isinstance(store, EncryptedSessionStore):
        store = store.inner
    with _making():
        if store not in _indexes:
            made = _make(store)
            if made is None:
                return None
            _indexes[store] = made
        return _indexes[store]


_making = ForkSafeLock()
_indexes: WeakKeyDictionary[SessionStore, UserIndex] = WeakKeyDictionary()


def _make(store: SessionStore) -> UserIndex | None:
    if isinstance(store, MemorySessionStore):
        return MemoryUserIndex(store)
    if not isinstance(store, RedisSessionStore | FallbackSessionStore):
        return None
    index = RedisUserIndex(store.link, store.key_prefix)
    if isinstance(store, FallbackSessionStore):
        store.on_restored(index.note_again)
        index.on_revoked = store.ended_elsewhere
    return index


# --- carrying a plan out --------------------------------------------------------------------------


async def perform(link: Link | None, plan: Plan[T]) -> T:
    """Carry *plan* out on the running loop, or in this thread where nobody awaits.

    Raises:
        SessionUnavailable: Redis is away.
        CorruptData: Redis refused: what lies there is not ours.
    """
    if blocking():
        return perform_sync(link, plan)
    replies: Any = None
    try:
        while True:
            step = plan.send(replies)
            replies = await _asked(link, step)
    except StopIteration as done:
        result: T = done.value
        return result


async def _asked(link: Link | None, step: Sequence[Command] | calls.Call) -> Sequence[Any]:
    if link is None:
        return ()
    try:
        if isinstance(step, calls.Call):
            return [await link.run(step.script, step.keys, step.args)]
        return _checked(await link.pipeline(step))
    except RedisUnavailable as error:
        raise SessionUnavailable(str(error)) from error
    except RedisReplyError as error:
        raise calls.corrupt(error) from error


def perform_sync(link: Link | None, plan: Plan[T]) -> T:
    """As :func:`perform`, in a thread without an event loop; it blocks the thread."""
    replies: Any = None
    try:
        while True:
            step = plan.send(replies)
            replies = _asked_sync(link, step)
    except StopIteration as done:
        result: T = done.value
        return result


def _asked_sync(link: Link | None, step: Sequence[Command] | calls.Call) -> Sequence[Any]:
    if link is None:
        return ()
    try:
        if isinstance(step, calls.Call):
            return [link.run_sync(step.script, step.keys, step.args)]
        return _checked(link.pipeline_sync(step))
    except RedisUnavailable as error:
        raise SessionUnavailable(str(error)) from error
    except RedisReplyError as error:
        raise calls.corrupt(error) from error


def _checked(answers: Sequence[Any]) -> Sequence[Any]:
    for answer in answers:
        if isinstance(answer, RedisUnavailable):
            raise answer
    # One that is no session of ours reads as absent: it is for a list, not for letting anybody in.
    return [None if isinstance(each, RedisReplyError) else each for each in answers]


# --- what replies mean ----------------------------------------------------------------------------


def _by_name(reply: Reply) -> dict[bytes, bytes]:
    pairs = iter(reply if isinstance(reply, list) else ())
    return dict(zip(pairs, pairs, strict=True))


def _entries(reply: Reply) -> dict[str, _Entry]:
    return {name.decode(): _entry(text) for name, text in _by_name(reply).items()}


def _entry(text: bytes) -> _Entry:
    try:
        ends, noted, origin = text.split(b" ", 2)
        agent, address = json.loads(origin)
        return _Entry(int(ends) / 1000, int(noted) / 1000, Origin(agent, address))
    except (ValueError, TypeError):
        # Its session may be there all the same, and must not be missed by a revocation.
        return _Entry(0.0, 0.0, Origin())


def _record(meta: bytes | None) -> Record | None:
    try:
        return None if meta is None else calls.bare_record(meta)
    except CorruptData:
        return None


def _end(record: Record, idle: float) -> float:
    return min(record.expires_at, record.seen_at + idle) if idle > 0 else record.expires_at


def _info(
    id_hash: str, record: Record, idle: float, origin: Origin | None = None, *, sized: bool = False
) -> SessionInfo:
    origin = origin or Origin()
    return SessionInfo(
        id_hash,
        _utc(record.created_at),
        _utc(record.seen_at),
        _utc(_end(record, idle)),
        *origin,
        {key: len(record.fields[key]) for key in sorted(record.fields)} if sized else {},
    )


def _parted(
    absent: Sequence[str], entries: Mapping[str, _Entry], now: float
) -> tuple[list[str], list[str]]:
    """Part the ids whose session is not there into those not yet and those no more."""
    unborn = [each for each in absent if now < entries[each].noted_at + UNBORN_SECONDS]
    return unborn, [each for each in absent if each not in unborn]


def _newest_first(infos: Any) -> list[SessionInfo]:
    return sorted(infos, key=lambda info: (info.last_seen_at, info.id_hash), reverse=True)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _script() -> Script:
    from holdfast.link import Script

    return Script.load("session_index_note")
