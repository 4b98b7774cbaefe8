"""Sessions while Redis is away: what ``HOLDFAST_SESSION_ON_OUTAGE`` promises.

Rule 1: unavailable is never absent. Who cannot be served is told so, and keeps the cookie.
Rule 2: what is acknowledged is in Redis or in the journal; a full journal is an error.
Rule 3: what was logged out here stays logged out: Redis hears of it before it serves a read.

Here, verb by verb, whether Redis is asked or what this process knows (``known.py``). What happens
when Redis is back lies in ``recovery.py``. Requests come from any loop and thread.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from holdfast import signals
from holdfast.errors import SessionNotReplicated, SessionUnavailable, SessionUnsettled
from holdfast.forks import watch_forks
from holdfast.runtime import runtime
from holdfast.sessions.outage.known import KnownSessions
from holdfast.sessions.outage.recovery import SessionRecovery
from holdfast.sessions.outage.replay import Replay
from holdfast.sessions.outage.restoration import Restoration
from holdfast.sessions.outage.rotations import Rotations
from holdfast.sessions.store import (
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionKey,
    SessionStore,
)
from holdfast.sessions.stores.calls import Calls
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.sessions.stores.sync import pause
from holdfast.signals import Reading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from holdfast.link import Link, LinkStatus, Recovery
    from holdfast.settings import Settings

_T = TypeVar("_T")

logger = logging.getLogger("holdfast.sessions")

_MAX_SESSIONS = 10_000
_MAX_BYTES = 32 * 1024 * 1024
# Seconds between two looks at whether a rotation is settled.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05


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
        self._calls = Calls(self.key_prefix)
        self._mode = default.settings.session_on_outage
        # Who rotated a secret has its answer from Redis by then, or has refused its request.
        self._patience = default.settings.redis_timeout
        self._bounds = (max_sessions, max_bytes)
        self._restored: list[Callable[[Recovery], None]] = []
        self.forked()
        watch_forks(self)
        signals.readable(self)
        self._link.on_recovery("sessions", self.replay)
        self._link.on_beat("sessions", self._beat)
        self._link.on_transition(self._follow_link)

    def forked(self) -> None:
        """Begin, also in a forked child: the parent replays what the parent promised."""
        self._known = KnownSessions(*self._bounds, copying=self._mode != "closed")
        self._rotations = Rotations(self._link, self._calls)
        self._replay = Replay(self._link, self._calls, self._known, self._rotations)
        self._recovery = SessionRecovery(
            self._link,
            self._known,
            self._rotations,
            self._replay,
            Restoration(self._calls, self.key_prefix),
            self._restored,
            warn=self._mode == "local",
        )

    def __repr__(self) -> str:
        return f"<FallbackSessionStore {self._mode}, {self.waiting} waiting, {self._link!r}>"

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
        return self._known.waiting

    def readings(self) -> Iterable[Reading]:
        """See :meth:`~holdfast.signals.Readable.readings`."""
        yield Reading("session_copies", self._known.copied)
        yield Reading("session_journal_sessions", self._known.waiting)
        yield Reading("session_journal_limit", self._bounds[0])
        yield Reading("session_journal_full", self._known.refused)

    @property
    def waits_in_place(self) -> bool:
        """Redis is asked in the way that the caller can wait."""
        return True

    @property
    def writable(self) -> bool:
        """Whether a write has any prospect now."""
        return self._mode == "local" or self._asks_redis()

    def _asks_redis(self) -> bool:
        # Before its first verdict on Redis the link makes who asks wait for that.
        return self._link.up or not self._link.decided

    def _only_if_local(self) -> None:
        """Raise where this process may write nothing by itself."""
        if self._mode != "local":
            raise SessionUnavailable("Redis is away, and nothing can be written")

    def _fall_back(self, error: SessionUnavailable) -> None:
        """Raise unless this process is to do what Redis did not, for *error*."""
        if isinstance(error, SessionNotReplicated):
            # Redis is there and has it. Journalled here it would still be on no more replicas.
            raise error
        self._only_if_local()

    # --- reading --------------------------------------------------------------------------------

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        """See :meth:`SessionStore.load`."""
        if self._asks_redis():
            try:
                return await self._found(key, idle_timeout)
            except SessionUnsettled:
                return await self._once_settled(key, lambda: self._found(key, idle_timeout))
            except SessionUnavailable:
                pass
        return self._known.load(key, idle_timeout)

    async def _found(self, key: SessionKey, idle_timeout: float) -> Record | Missing:
        if self._known.waiting:
            await self._replay.write_one(key.id_hash)
        asked = self._known.asked
        found = await self._remote.load(key, idle_timeout=idle_timeout)
        self._known.remember(key, found, asked)
        return found

    async def _once_settled(self, key: SessionKey, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask until it is known which secret is the session's, as long as that may be on its way.

        Raises:
            SessionUnsettled: the process that knows it cannot say it now.
        """
        # The copy may be of before the rotation that is not settled.
        self._known.outdate(key.id_hash)
        deadline, wait = time.monotonic() + self._patience, _FIRST_PAUSE
        while True:
            await self._rotations.take_back(key.id_hash)
            try:
                return await ask()
            except SessionUnsettled:
                if time.monotonic() > deadline:
                    raise
            await pause(wait)
            wait = min(2 * wait, _LONGEST_PAUSE)

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
        record = Record.new(fields, max_age, time.time())
        if self._asks_redis():
            asked = self._known.asked
            try:
                outcome = await self._remote.create(
                    key, fields, max_age=max_age, idle_timeout=idle_timeout
                )
            except SessionUnavailable as error:
                self._fall_back(error)
            else:
                if outcome is Outcome.DONE:
                    self._known.remember(key, record, asked)
                return outcome
        self._only_if_local()
        outcome = self._known.create(key, record, idle_timeout)
        await self._write_if_back(key.id_hash)
        return outcome

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        """See :meth:`SessionStore.save`."""
        asks = self._asks_redis()
        # What was refused may be there all the same, also where Redis is not asked this time.
        asked = self._rotations.retry(change.rotation) or asks
        if change.rotation is not None:
            change = change._replace(rotation=replace(change.rotation, kept=True))
        try:
            outcome = await self._by_redis(
                key, lambda: self._saved(key, change, idle_timeout), asks=asks
            )
            if outcome is not None:
                return outcome
            outcome = self._known.save(key, change, idle_timeout, asked=asked)
        except BaseException:
            # A request that was cancelled does not tell its browser of a new secret either.
            self._note_refused(key, change.rotation, asked=asked)
            raise
        if outcome is not Outcome.DONE and outcome is not Outcome.DESTROYED:
            self._note_refused(key, change.rotation, asked=asked)
        await self._write_if_back(key.id_hash)
        return outcome

    async def _by_redis(
        self, key: SessionKey, write: Callable[[], Awaitable[_T]], *, asks: bool
    ) -> _T | None:
        """Have Redis do *write*, if it is asked; return ``None`` where this process is to do it.

        Raises:
            SessionUnavailable: neither can.
        """
        if asks:
            try:
                return await write()
            except SessionUnsettled:
                return await self._once_settled(key, write)
            except SessionUnavailable as error:
                self._fall_back(error)
        self._only_if_local()
        return None

    async def _saved(self, key: SessionKey, change: Change, idle_timeout: float) -> Outcome:
        try:
            if self._known.waiting:
                await self._replay.write_one(key.id_hash)
            outcome = await self._remote.save(key, change, idle_timeout=idle_timeout)
        except SessionNotReplicated:
            # At once, since Redis is there: only this process knows that the secret was refused.
            self._note_refused(key, change.rotation, asked=True)
            with contextlib.suppress(SessionUnavailable):
                await self._rotations.take_back(key.id_hash)
            raise
        self._known.follow(key, change, outcome)
        if change.rotation is not None and outcome is Outcome.DONE:
            self._rotations.settle(key.id_hash, change.rotation)
        return outcome

    async def increment(
        self, key: SessionKey, name: str, by: int, *, idle_timeout: float = 0.0
    ) -> int | Outcome:
        """See :meth:`SessionStore.increment`."""
        asks = self._asks_redis()
        try:
            value = await self._by_redis(
                key, lambda: self._added(key, name, by, idle_timeout), asks=asks
            )
            if value is not None:
                return value
            value = self._known.increment(key, name, by, idle_timeout, asked=asks)
        except BaseException:
            self._note_refused(key, None, asked=asks)
            raise
        await self._write_if_back(key.id_hash)
        return value

    async def _added(
        self, key: SessionKey, name: str, by: int, idle_timeout: float
    ) -> int | Outcome:
        if self._known.waiting:
            await self._replay.write_one(key.id_hash)
        value = await self._remote.increment(key, name, by, idle_timeout=idle_timeout)
        if isinstance(value, Outcome):
            self._known.follow(key, Change(), value)
        else:
            self._known.follow(key, Change({name: b"%d" % value}), Outcome.DONE)
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
                    self._known.follow_touch(key, interval)
                return outcome
        # Reading goes on in every mode, and must not fail for the sake of a timestamp.
        return self._known.touch(key, idle_timeout, interval)

    async def delete(self, id_hash: str) -> Outcome:
        """See :meth:`SessionStore.delete`."""
        if self._asks_redis():
            self._known.end(id_hash)
            try:
                outcome = await self._remote.delete(id_hash)
            except SessionUnavailable as error:
                self._fall_back(error)
            else:
                self._known.forget_waiting(id_hash)
                return outcome
            finally:
                # A load that was on its way meanwhile may have put a copy back.
                self._known.outdate(id_hash)
        self._only_if_local()
        self._known.delete(id_hash)
        await self._write_if_back(id_hash)
        return Outcome.DONE

    def ended_elsewhere(self, id_hash: str) -> None:
        """Note that Redis was told of a logout by somebody else in this process."""
        self._known.end(id_hash)

    def _note_refused(self, key: SessionKey, rotation: Rotation | None, *, asked: bool) -> None:
        """Note what is refused and, where Redis was *asked*, may have been done."""
        if not asked:
            return
        if self._mode == "local" or (rotation is not None and rotation.final):
            # Redis may hold something else than the copy by now: in an outage nothing may be built
            # on that, and nobody whom Redis has logged out may be shown as logged in.
            self._known.outdate(key.id_hash)
        if rotation is not None:
            self._rotations.refuse(key.id_hash, rotation)

    async def _write_if_back(self, id_hash: str) -> None:
        """Write what waits of a session where Redis came back between the look and the note."""
        if self._link.up:
            # Where it is gone again, it waits for the replay.
            with contextlib.suppress(SessionUnavailable):
                await self._replay.write_one(id_hash)

    # --- when Redis is back ---------------------------------------------------------------------

    # What the link calls is of the store, not of its parts: a forked child makes new ones.

    def replay(self, recovery: Recovery) -> None:
        """See :meth:`SessionRecovery.recover`."""
        self._recovery.recover(recovery)

    def _beat(self, recovery: Recovery) -> None:
        self._recovery.beat(recovery)

    def _follow_link(self, status: LinkStatus) -> None:
        self._recovery.follow_link(status)

    def on_restored(self, hook: Callable[[Recovery], None]) -> None:
        """Have *hook* called when sessions were put back into a Redis that had lost them."""
        self._restored.append(hook)

    async def flush(self) -> None:
        """Write what waits, if Redis is there; else say what ends with this process."""
        if self._link.up:
            for entry in self._known.all_waiting():
                await self._write_if_back(entry.id_hash)
        if self.waiting:
            logger.error(
                "%d %s changes that Redis never heard: they end with this process",
                self.waiting,
                "session has" if self.waiting == 1 else "sessions have",
                extra={"sessions_lost": self.waiting},
            )
