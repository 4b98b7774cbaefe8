"""Sessions while Redis is away: what ``HOLDFAST_SESSION_ON_OUTAGE`` promises.

Rule 1: unavailable is never absent. Who cannot be served is told so, and keeps the cookie.
Rule 2: what is acknowledged is in Redis or in the journal; a full journal is an error.
Rule 3: what was logged out here stays logged out: Redis hears of it before it serves a read.

Requests come from any loop and thread, the replay from the thread that supervises the link.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from holdfast import signals
from holdfast.errors import (
    RedisReplyError,
    RedisUnavailable,
    SessionNotReplicated,
    SessionUnavailable,
    SessionUnsettled,
)
from holdfast.forks import watch_forks
from holdfast.runtime import runtime
from holdfast.sessions.outage.batches import run_each, run_groups
from holdfast.sessions.outage.copies import Copies
from holdfast.sessions.outage.journal import Entry, Journal, alive
from holdfast.sessions.outage.presence import Loss
from holdfast.sessions.outage.refusals import Refusals
from holdfast.sessions.outage.restoration import Restoration, restorable_since
from holdfast.sessions.store import (
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionKey,
    SessionStore,
)
from holdfast.sessions.stores import calls
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.sessions.stores.sync import blocking, pause
from holdfast.signals import Reading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from holdfast.link import Link, LinkStatus, Recovery, Reply
    from holdfast.settings import Settings

_T = TypeVar("_T")

logger = logging.getLogger("holdfast.sessions")

#: Seconds before the outage within which a session must have been seen here to be served. Longer
#: serves more visitors; shorter, fewer sessions that were logged out in another process.
COPY_SECONDS = 900.0
_MAX_SESSIONS = 10_000
_MAX_BYTES = 32 * 1024 * 1024
# For what is written while the rest is replayed; logouts are always waited for.
_REPLAY_SECONDS = 1.0
# Sessions that nobody else may write while they are.
_TURNS = 50
_TURN_SECONDS = 0.25
_TURN_PAUSE = 0.002
_LONGEST_PAUSE = 0.05
# For which a command that was refused is looked out for, every few seconds.
_LATE_SECONDS = 30.0
_SEVERAL = (
    "HOLDFAST_SESSION_ON_OUTAGE=local, and %d other processes share the sessions: while Redis is "
    "away each serves what it has seen itself, a session that began in one is not known to the "
    "others, and a logout in one is not heard by them until Redis is back "
    "(docs/sessions/outages.md); readonly and closed promise more"
)


class FallbackSessionStore(SessionStore):
    """A :class:`RedisSessionStore` that survives an outage in the way the settings say.

    ``local``: sessions used lately are served from copies, new ones are born here, and writes and
    logouts wait in a journal for Redis to come back. ``readonly``: the copies can be read.
    ``closed``: nothing is served.

    Args:
        settings: in place of those of the environment.
        link: in place of the runtime's.
        max_sessions: how many copies are kept, how many sessions may wait in the journal, and how
            many logouts.
        max_bytes: what the data of each of both may come to.

    Raises:
        ConfigurationError: no Redis URL is set.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        link: Link | None = None,
        max_sessions: int = _MAX_SESSIONS,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        default = runtime(settings)
        self._remote = RedisSessionStore(settings, link=link)
        self._link = self._remote.link
        self._prefix = default.settings.key_prefix
        self._calls = calls.Calls(self._prefix)
        self._mode = default.settings.session_on_outage
        # Whoever has rotated has its answer by then, or refuses.
        self._patience = default.settings.redis_timeout
        self._bounds = (max_sessions, max_bytes)
        self.forked()
        watch_forks(self)
        signals.readable(self)
        self._restored: list[Callable[[Recovery], None]] = []
        self._link.on_recovery("sessions", self.replay)
        self._link.on_beat("sessions", self._attend)
        self._link.on_transition(self._follow_link)

    def forked(self) -> None:
        """Begin, also in a forked child: the parent replays what the parent promised."""
        self._lock = threading.Lock()
        self._copies = Copies(*self._bounds)
        self._restoration = Restoration(self._calls, self._prefix, self._bounds[0])
        self._told_of_others = False
        self._journal = Journal(*self._bounds)
        self._refusals = Refusals(self._calls)
        self._writing: set[str] = set()
        self._away_since: float | None = None
        self._replayed = False
        self._conflicts = 0
        self._lost = False

    def __repr__(self) -> str:
        return f"<FallbackSessionStore {self._mode}, {len(self._journal)} waiting, {self._link!r}>"

    @property
    def link(self) -> Link:
        """The link to its Redis."""
        return self._link

    @property
    def key_prefix(self) -> str:
        """What is put before every key."""
        return self._remote.key_prefix

    @property
    def waiting(self) -> int:
        """How many sessions have something that Redis has not heard yet."""
        return len(self._journal)

    def readings(self) -> Iterable[Reading]:
        """See :meth:`~holdfast.signals.Readable.readings`."""
        yield Reading("session_copies", len(self._copies))
        yield Reading("session_journal_sessions", len(self._journal))
        yield Reading("session_journal_limit", self._bounds[0])
        yield Reading("session_journal_full", self._journal.refused)

    @property
    def waits_in_place(self) -> bool:
        """Redis is asked in the way that the caller can wait."""
        return True

    @property
    def writable(self) -> bool:
        """Whether a write has any prospect now."""
        return self._mode == "local" or self._asks_redis()

    def _asks_redis(self) -> bool:
        # Before the first verdict the link itself waits for it.
        return self._link.up or not self._link.decided

    # --- reading --------------------------------------------------------------------------------

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        """See :meth:`SessionStore.load`."""
        if self._asks_redis():
            try:
                return await self._found(key, idle_timeout)
            except SessionUnsettled:
                return await self._settled(key, lambda: self._found(key, idle_timeout))
            except SessionUnavailable:
                pass
        return self._load_here(key, idle_timeout)

    async def _found(self, key: SessionKey, idle_timeout: float) -> Record | Missing:
        if len(self._journal):
            await self._write_waiting(key.id_hash)
        asked = self._copies.asked
        found = await self._remote.load(key, idle_timeout=idle_timeout)
        self._remember(key, found, asked)
        return found

    async def _settled(self, key: SessionKey, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask until it is known which secret is the session's, as long as that may be on its way.

        Raises:
            SessionUnsettled: the process that knows it cannot say it now.
        """
        with self._lock:
            # What is known here may be over.
            self._copies.outdate(key.id_hash)
        deadline, wait = time.monotonic() + self._patience, _TURN_PAUSE
        while True:
            await self._take_back(key)
            try:
                return await ask()
            except SessionUnsettled:
                if time.monotonic() > deadline:
                    raise
            await pause(wait)
            wait = min(2 * wait, _LONGEST_PAUSE)

    def _remember(self, key: SessionKey, found: Record | Missing, asked: int) -> None:
        if self._mode == "closed":
            return
        with self._lock:
            if isinstance(found, Missing):
                # A secret that is not this copy's says nothing about it.
                if self._copies.get(key, 0.0) is not None:
                    self._copies.drop(key.id_hash)
            elif found.current:
                self._copies.put(key, found, time.time(), asked)

    def _load_here(self, key: SessionKey, idle_timeout: float) -> Record | Missing:
        now = time.time()
        with self._lock:
            entry = self._journal.get(key.id_hash)
            seen = None if entry is None else entry.seen_with(key.secret_hash, now, idle_timeout)
            if isinstance(seen, Missing):
                return seen
            if seen is not None and entry is not None:
                return seen._replace(degraded="local" if entry.born else "stale")
            copy = self._copy(key) if entry is None else None
        if copy is None:
            raise SessionUnavailable("the session is not known here while Redis is away")
        if not alive(copy, now, idle_timeout):
            return Missing.ABSENT
        return copy._replace(degraded="stale")

    def _copy(self, key: SessionKey) -> Record | None:
        return self._copies.get(key, self._bridged_since())

    # --- writing --------------------------------------------------------------------------------

    async def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float = 0.0,
    ) -> Outcome:
        """See :meth:`SessionStore.create`."""
        record = _new_record(fields, max_age)
        if self._asks_redis():
            asked = self._copies.asked
            try:
                outcome = await self._remote.create(
                    key, fields, max_age=max_age, idle_timeout=idle_timeout
                )
            except SessionUnavailable as error:
                self._only_where_kept(error)
            else:
                if outcome is Outcome.DONE:
                    self._remember(key, record, asked)
                return outcome
        self._only_if_local()
        with self._lock:
            outcome = self._journal.create(key, record, idle_timeout)
        await self._settle_race(key.id_hash)
        return outcome

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        """See :meth:`SessionStore.save`."""
        again, asks = self._refusals.forget(change.rotation), self._asks_redis()
        if change.rotation is not None:
            change = change._replace(rotation=replace(change.rotation, kept=True))
        try:
            if asks:
                try:
                    return await self._saved(key, change, idle_timeout)
                except SessionUnsettled:
                    return await self._settled(key, lambda: self._saved(key, change, idle_timeout))
                except SessionUnavailable as error:
                    self._only_where_kept(error)
            self._only_if_local()
            return await self._save_here(key, change, idle_timeout, asked=again or asks)
        except BaseException:
            # Whoever was cancelled does not tell its browser either.
            self._note_refused(key, change.rotation, asked=again or asks)
            raise

    async def _saved(self, key: SessionKey, change: Change, idle_timeout: float) -> Outcome:
        try:
            if len(self._journal):
                await self._write_waiting(key.id_hash)
            outcome = await self._remote.save(key, change, idle_timeout=idle_timeout)
        except SessionNotReplicated:
            # At once, since Redis is there: other processes know nothing of it.
            self._note_refused(key, change.rotation, asked=True)
            with contextlib.suppress(SessionUnavailable):
                await self._take_back(key)
            raise
        self._follow(key, change, outcome)
        if change.rotation is not None and outcome is Outcome.DONE:
            self._settle(key.id_hash, change.rotation)
        return outcome

    def _settle(self, id_hash: str, rotation: Rotation) -> None:
        """Say that whoever asked for a rotation is told of it, and wait for nothing.

        Where it is not heard, who comes with the new secret says the same.
        """
        # The old secret of one with a grace is good meanwhile.
        if rotation.grace > 0:
            return
        call = self._calls.settle(id_hash, rotation.secret_hash)
        if not blocking():
            self._link.post(*call)
            return
        with contextlib.suppress(RedisUnavailable, RedisReplyError):
            self._link.run_sync(*call)

    async def _save_here(
        self, key: SessionKey, change: Change, idle_timeout: float, *, asked: bool
    ) -> Outcome:
        now = time.time()
        with self._lock:
            known = self._copy(key)
            outcome = self._journal.save(key, known, change, idle_timeout, now, asked=asked)
            self._copies.outdate(key.id_hash)
        if outcome is Outcome.DESTROYED:
            self._restoration.departed(key.id_hash)
        elif outcome is not Outcome.DONE:
            self._note_refused(key, change.rotation, asked=asked)
        await self._settle_race(key.id_hash)
        return outcome

    def _follow(self, key: SessionKey, change: Change, outcome: Outcome) -> None:
        """Have the copy show what Redis was told, lest an outage shows what was before."""
        now = time.time()
        with self._lock:
            copy = self._copies.get(key, 0.0)
            # A load on its way may have found what this has changed, or ended.
            self._copies.outdate(key.id_hash)
            if outcome is Outcome.DESTROYED:
                self._restoration.departed(key.id_hash)
            if copy is None or outcome is not Outcome.DONE:
                return
            if change.rotation is not None:
                key = SessionKey(key.id_hash, change.rotation.secret_hash)
            self._copies.put(key, copy.after(change, now), now)

    async def increment(
        self, key: SessionKey, name: str, by: int, *, idle_timeout: float = 0.0
    ) -> int | Outcome:
        """See :meth:`SessionStore.increment`."""
        asked = self._asks_redis()
        try:
            if asked:
                try:
                    return await self._added(key, name, by, idle_timeout)
                except SessionUnsettled:
                    return await self._settled(
                        key, lambda: self._added(key, name, by, idle_timeout)
                    )
                except SessionUnavailable as error:
                    self._only_where_kept(error)
            self._only_if_local()
            now = time.time()
            with self._lock:
                known = self._copy(key)
                value = self._journal.increment(
                    key, known, name, by, idle_timeout, now, asked=asked
                )
                self._copies.outdate(key.id_hash)
        except BaseException:
            self._note_refused(key, None, asked=asked)
            raise
        await self._settle_race(key.id_hash)
        return value

    async def _added(
        self, key: SessionKey, name: str, by: int, idle_timeout: float
    ) -> int | Outcome:
        if len(self._journal):
            await self._write_waiting(key.id_hash)
        value = await self._remote.increment(key, name, by, idle_timeout=idle_timeout)
        if isinstance(value, Outcome):
            self._follow(key, Change(), value)
        else:
            self._follow(key, Change({name: b"%d" % value}), Outcome.DONE)
        return value

    async def touch(
        self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0
    ) -> Outcome:
        """See :meth:`SessionStore.touch`."""
        if self._asks_redis():
            try:
                outcome = await self._remote.touch(
                    key, idle_timeout=idle_timeout, interval=interval
                )
            except SessionUnavailable:
                pass
            else:
                if outcome is Outcome.DONE:
                    self._touch_copy(key, interval)
                return outcome
        # Reading goes on in every mode, and must not fail for the sake of a timestamp.
        with self._lock:
            if self._journal.get(key.id_hash) is not None:
                return self._journal.touch(key, idle_timeout, interval, time.time())
        self._touch_copy(key, interval)
        return Outcome.DONE

    def _touch_copy(self, key: SessionKey, interval: float) -> None:
        now = time.time()
        with self._lock:
            self._copies.touch(key, now, interval)

    async def delete(self, id_hash: str) -> Outcome:
        """See :meth:`SessionStore.delete`."""
        if self._asks_redis():
            self._depart(id_hash)
            try:
                outcome = await self._remote.delete(id_hash)
            except SessionUnavailable as error:
                self._only_where_kept(error)
            else:
                with self._lock:
                    self._journal.forget(id_hash)
                return outcome
            finally:
                # A load on its way may have found it still, or put its copy back.
                with self._lock:
                    self._copies.outdate(id_hash)
        self._only_if_local()
        with self._lock:
            self._journal.delete(id_hash)
        # Not before: who is refused is still logged in, also where Redis is told of all again.
        self._depart(id_hash)
        await self._settle_race(id_hash)
        return Outcome.DONE

    def _depart(self, id_hash: str) -> None:
        with self._lock:
            self._copies.outdate(id_hash)
        self._restoration.departed(id_hash)

    def ended_elsewhere(self, id_hash: str) -> None:
        """Note that Redis was told of a logout by somebody else in this process."""
        self._depart(id_hash)

    def _note_refused(self, key: SessionKey, rotation: Rotation | None, *, asked: bool) -> None:
        """Note what is refused and, where Redis was *asked*, may have been done."""
        if not asked:
            return
        if self._mode == "local" or (rotation is not None and rotation.final):
            # Redis may hold something else by now: nothing may be merged onto what this shows, and
            # nobody whom it has logged out may be shown as logged in.
            with self._lock:
                self._copies.outdate(key.id_hash)
        self._refusals.note(key.id_hash, rotation)

    def _take_all_back(self, recovery: Recovery, *, since: float = 0.0) -> None:
        run_each(recovery, self._refusals.undoing(since=since))

    async def _take_back(self, key: SessionKey) -> None:
        """Take back what was refused of a session, and done when nobody waited for it any more."""
        for call in self._refusals.undoing(key.id_hash):
            try:
                if blocking():
                    self._link.run_sync(*call)
                else:
                    await self._link.run(*call)
            except RedisUnavailable as error:
                raise SessionUnavailable(str(error)) from error
            except RedisReplyError:
                return  # what is there now is no session

    def _only_where_kept(self, error: SessionUnavailable) -> None:
        if isinstance(error, SessionNotReplicated):
            # Redis is there and has it; to keep it here as well would be no replica.
            raise error
        self._only_if_local()

    def _only_if_local(self) -> None:
        if self._mode != "local":
            raise SessionUnavailable("Redis is away, and nothing can be written")

    # --- coming back ----------------------------------------------------------------------------

    def replay(self, recovery: Recovery) -> None:
        """Write all that waits, logouts first; called before Redis serves its first read.

        Raises:
            RedisUnavailable: it is gone again; what was not written still waits.
        """
        census, loss = self._restoration.ask(recovery)
        since = restorable_since(loss, self._bridged_since(), time.time())
        if loss is not Loss.NONE:
            # No copy anywhere is of before that.
            self._restoration.tell_departed(recovery, self._bridged_since() - COPY_SECONDS)
        self._conflicts = written = ended = 0
        self._lost = since is not None
        # First: what waits was written with the secrets from before.
        self._take_all_back(recovery)
        waiting, last = self._waiting_now(), time.monotonic() + _REPLAY_SECONDS
        unsettled: set[int] = set()
        while waiting:
            for entry, told in self._write_all(waiting, recovery):
                written += told is True
                ended += told is False
                if told is None:
                    unsettled.add(id(entry))
            # What requests add meanwhile is written as well, but not for ever: the rest is written
            # before it is read. A logout has to be known to those who read elsewhere.
            late = time.monotonic() > last
            waiting = [
                each
                for each in self._waiting_now()
                if id(each) not in unsettled and (each.record is None or not late)
            ]
        if written or ended:
            signals.count("session_replayed", "written", by=written)
            signals.count("session_replayed", "ended", by=ended)
            signals.count("session_replayed", "conflict", by=self._conflicts)
            logger.warning(
                "after the outage %d sessions were written, and %d had ended meanwhile; of %d "
                "keys others had changed the value, which was left as it is",
                written,
                ended,
                self._conflicts,
                extra={
                    "sessions_written": written,
                    "sessions_ended": ended,
                    "keys_conflicting": self._conflicts,
                },
            )
        self._put_back(recovery, loss, since)
        self._restoration.settle(census)
        self._replayed = True

    def _attend(self, recovery: Recovery) -> None:
        """Say that this process is there; the link calls it now and then while Redis is up."""
        census, loss = self._restoration.ask(recovery)
        if loss is Loss.EMPTIED:
            # Somebody's word, in the sight of all: who is copied here is logged out as well.
            with self._lock:
                self._copies.clear()
        elif loss is not Loss.NONE:
            # It was gone for so short a time that nobody noticed.
            since = restorable_since(loss, self._bridged_since(), time.time())
            self._restoration.tell_departed(recovery, self._bridged_since() - COPY_SECONDS)
            self._put_back(recovery, loss, since)
        lately = time.time() - _LATE_SECONDS
        # Others know nothing of it, and one that was late may be done only now.
        self._take_all_back(recovery, since=0.0 if self._link.status.since > lately else lately)
        # What a session that was unsettled had to wait with.
        for _ in self._write_all(self._waiting_now(), recovery):
            pass
        self._restoration.settle(census)
        if census is not None and census.others:
            self._tell_of_others(census.others)

    def _tell_of_others(self, others: int) -> None:
        if self._mode == "local" and not self._told_of_others:
            self._told_of_others = True
            logger.warning(_SEVERAL, others)

    def _put_back(self, recovery: Recovery, loss: Loss, since: float | None) -> None:
        if since is None:
            return
        with self._lock:
            copies = self._copies.since(since)
        restored = self._restoration.put_back(recovery, loss, copies)
        signals.count("session_replayed", "restored", by=restored)
        for hook in self._restored:
            hook(recovery)

    def on_restored(self, hook: Callable[[Recovery], None]) -> None:
        """Have *hook* called when sessions were put back into a Redis that had lost them."""
        self._restored.append(hook)

    def _bridged_since(self) -> float:
        return (self._away_since or time.time()) - COPY_SECONDS

    def _follow_link(self, status: LinkStatus) -> None:
        """Keep the time since which Redis is away; called by the link's own thread."""
        if status.state.value != "up":
            self._away_since = self._away_since or status.since
            return
        self._away_since = None
        if self._replayed:
            # Not earlier: until Redis is asked again, which other recoveries may delay, they serve.
            # Others may have changed or ended them while nobody could see it.
            self._replayed = False
            with self._lock:
                self._copies.drop_before(status.since)
        # A request may have seen the link down and noted something just after the last replay.
        with contextlib.suppress(RedisUnavailable):
            waiting, recovery = self._waiting_now(), _ByLink(self._link)
            self._take_all_back(recovery)
            for _ in self._write_all(waiting, recovery):
                pass

    def _waiting_now(self) -> list[Entry]:
        with self._lock:
            return self._journal.in_order()

    def _write_all(
        self, entries: Sequence[Entry], recovery: Recovery
    ) -> Iterator[tuple[Entry, bool | None]]:
        """Have Redis told of *entries*, many at a time, in this thread.

        Yields each that still was what waits, and whether its session was there; ``None`` where
        that cannot be said yet, and so it waits on.
        """
        for first in range(0, len(entries), _TURNS):
            mine = [each for each in entries[first : first + _TURNS] if self._claim(each)]
            try:
                groups = [self._calls_of(each) for each in mine]
                for entry, reply in zip(mine, run_groups(recovery, groups), strict=True):
                    if isinstance(reply, RedisReplyError):
                        _tell_refused(reply)
                        reply = None  # noqa: PLW2901 - dropped: it would be refused for ever
                    elif calls.unsettled(reply):
                        yield entry, None
                        continue
                    yield entry, self._written(entry, reply)
            finally:
                for entry in mine:
                    self._end_turn(entry)

    def _calls_of(self, entry: Entry) -> tuple[calls.Call, ...]:
        return entry.calls(self._calls, time.time(), lost=self._lost)

    def _claim(self, entry: Entry) -> bool:
        # What a request wrote meanwhile may be older by now than what Redis holds.
        deadline = time.monotonic() + _TURN_SECONDS
        while True:
            with self._lock:
                if self._journal.get(entry.id_hash) is not entry:
                    return False
                if entry.id_hash not in self._writing:
                    self._writing.add(entry.id_hash)
                    entry.tried = True
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_TURN_PAUSE)

    def _end_turn(self, entry: Entry) -> None:
        with self._lock:
            self._writing.discard(entry.id_hash)

    def _written(self, entry: Entry, reply: Reply) -> bool:
        there, conflicts = calls.merged(reply)
        with self._lock:
            self._journal.done(entry)
            self._conflicts += conflicts
            self._copies.drop(entry.id_hash)
            # What was noted meanwhile, a logout even, is shown from the journal and then written.
            settled = self._journal.get(entry.id_hash) is None and not conflicts
            if entry.record is not None and there and settled and not self._link.up:
                # Until the whole replay has ended, nobody can ask Redis for it.
                key = SessionKey(entry.id_hash, entry.secret_hash)
                self._copies.put(key, entry.record, time.time())
        return entry.record is None or there

    async def _settle_race(self, id_hash: str) -> None:
        if self._link.up:
            try:
                await self._write_waiting(id_hash)
            except SessionUnavailable:
                return  # gone again: it waits for the replay

    async def _write_waiting(self, id_hash: str) -> None:
        """Write what waits of one session, before anything else of it is read or written."""
        deadline = time.monotonic() + _TURN_SECONDS
        while True:
            with self._lock:
                entry = self._journal.get(id_hash)
                if entry is None:
                    return
                mine = id_hash not in self._writing
                self._writing.add(id_hash)
                entry.tried = entry.tried or mine
            if mine:
                await self._take_turn(entry)
            elif time.monotonic() > deadline:
                raise SessionUnavailable("what waited of this session is still being written")
            else:
                await pause(_TURN_PAUSE)

    async def _take_turn(self, entry: Entry) -> None:
        reply: Reply = None
        try:
            # A logout waits for nothing that may fail, and needs no secret.
            undoing = [] if entry.record is None else self._refusals.undoing(entry.id_hash)
            for call in (*undoing, *self._calls_of(entry)):
                reply = self._link.run_sync(*call) if blocking() else await self._link.run(*call)
                if calls.unsettled(reply):
                    raise SessionUnsettled
        except RedisUnavailable as error:
            raise SessionUnavailable(str(error)) from error
        except RedisReplyError as error:
            _tell_refused(error)
            self._written(entry, None)
        else:
            self._written(entry, reply)
        finally:
            self._end_turn(entry)

    async def flush(self) -> None:
        """Write what waits, if Redis is there; else say what ends with this process."""
        if self._link.up:
            for entry in self._waiting_now():
                await self._settle_race(entry.id_hash)
        if self.waiting:
            logger.error(
                "%d %s changes that Redis never heard: they end with this process",
                self.waiting,
                "session has" if self.waiting == 1 else "sessions have",
                extra={"sessions_lost": self.waiting},
            )


class _ByLink:
    """What a recovery is, on a link that is up: for the thread that is told so."""

    def __init__(self, link: Link) -> None:
        self.execute, self.run, self.pipeline = (
            link.execute_sync,
            link.run_sync,
            link.pipeline_sync,
        )


def _new_record(fields: Mapping[str, bytes], max_age: float) -> Record:
    now = time.time()
    return Record(dict(fields), now, now + max_age, now, now)


def _tell_refused(error: RedisReplyError) -> None:
    signals.count("session_replayed", "refused")
    logger.error("Redis refused a session change of the outage: %s", error.code)
