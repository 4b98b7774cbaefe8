"""Sessions in Redis: one hash each, read by ``HGETALL``, written by one guarded script.

Thin: what is sent is built in ``calls.py``, when it may be sent is the link's business, and what
serves while Redis is away is ``fallback.py``. This store alone says "unavailable" then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from holdfast.errors import (
    ConfigurationError,
    RedisReplyError,
    RedisUnavailable,
    SessionNotReplicated,
    SessionUnavailable,
)
from holdfast.runtime import runtime
from holdfast.sessions.store import Change, Missing, Outcome, Record, SessionKey, SessionStore
from holdfast.sessions.stores import calls
from holdfast.sessions.stores.noted import Noted
from holdfast.sessions.stores.sync import blocking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.link import Link, Reply
    from holdfast.settings import Settings

#: How often a load asks Redis for its time as well, in the same round trip.
CLOCK_SECONDS = 30.0
# A clock that is only slewed does not get as far from another in that time.
_STEP_SECONDS = 0.1


class RedisSessionStore(SessionStore):
    """Keeps sessions in Redis, shared by all processes.

    Every verb raises ``SessionUnavailable`` while Redis is away; ``HOLDFAST_SESSION_STORE=auto``
    and ``redis`` put the fallback of ``HOLDFAST_SESSION_ON_OUTAGE`` around it.

    Args:
        settings: in place of those of the environment.
        link: in place of the runtime's.

    Raises:
        ConfigurationError: no Redis URL is set.
    """

    def __init__(self, settings: Settings | None = None, *, link: Link | None = None) -> None:
        default = runtime(settings)
        found = default.link if link is None else link
        if found is None:
            raise ConfigurationError(
                "RedisSessionStore needs a Redis: set HOLDFAST_REDIS_URL, or give it settings with "
                "a redis_url"
            )
        self.link = found
        self.key_prefix = default.settings.key_prefix
        self._replicas = default.settings.redis_wait
        self._calls = calls.Calls(self.key_prefix)
        self._noted = Noted(default.settings.session_touch_interval)
        # Lifetimes are judged by the clock of Redis, which all processes share.
        self._skew = 0.0
        self._skew_due = 0.0
        # What our clock is ahead of one that nobody sets, when both were last compared with that.
        self._ahead = 0.0

    def __repr__(self) -> str:
        return f"<RedisSessionStore on {self.link!r}>"

    @property
    def waits_in_place(self) -> bool:
        """Redis is asked in the way that the caller can wait."""
        return True

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        """See :meth:`SessionStore.load`: one round trip."""
        command = ("HGETALL", self._calls.name(key.id_hash))
        try:
            if self._knows_time():
                link = self.link
                reply = link.execute_sync(*command) if blocking() else await link.execute(*command)
            else:
                reply = await self._load_with_time(command)
        except RedisUnavailable as error:
            raise SessionUnavailable(str(error)) from error
        except RedisReplyError as error:
            raise calls.corrupt(error) from error
        now = time.time() + self._skew
        return calls.record(reply, key.secret_hash, now, idle_timeout, self._skew)

    def _knows_time(self) -> bool:
        """Whether the skew was found lately, and our clock was not set since (NTP, a resume)."""
        elapsed = time.monotonic()
        stepped = abs(time.time() - elapsed - self._ahead)
        return elapsed < self._skew_due and stepped < _STEP_SECONDS

    async def _load_with_time(self, command: tuple[str, str]) -> Reply:
        commands = [command, ("TIME",)]
        if blocking():
            reply, redis_time = self.link.pipeline_sync(commands)
        else:
            reply, redis_time = await self.link.pipeline(commands)
        if isinstance(redis_time, list):
            seconds, microseconds = redis_time
            ours, elapsed = time.time(), time.monotonic()
            self._skew = int(seconds) + int(microseconds) / 1e6 - ours
            self._skew_due, self._ahead = elapsed + CLOCK_SECONDS, ours - elapsed
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float = 0.0,
    ) -> Outcome:
        """See :meth:`SessionStore.create`."""
        call = self._calls.create(key, fields, max_age=max_age, idle_timeout=idle_timeout)
        return calls.outcome(await self._run(call))

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        """See :meth:`SessionStore.save`.

        Activity noted here less than ``SESSION_TOUCH_INTERVAL`` ago is not noted again.
        """
        began = time.monotonic()
        noted = self._noted.asked(key, change, idle_timeout, began)
        call = self._calls.save(key, change, idle_timeout=idle_timeout, noted=noted)
        reply = await self._run(call)
        if not isinstance(reply, bytes):
            return calls.outcome(reply)
        self._noted.learn(key, reply, idle_timeout, began)
        return Outcome.DONE

    async def increment(
        self, key: SessionKey, name: str, by: int, *, idle_timeout: float = 0.0
    ) -> int | Outcome:
        """See :meth:`SessionStore.increment`."""
        call = self._calls.increment(key, name, by, idle_timeout=idle_timeout)
        return calls.incremented(await self._run(call))

    async def touch(
        self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0
    ) -> Outcome:
        """See :meth:`SessionStore.touch`."""
        call = self._calls.touch(key, idle_timeout=idle_timeout, interval=interval)
        return calls.outcome(await self._run(call, wait=False))

    async def delete(self, id_hash: str) -> Outcome:
        """See :meth:`SessionStore.delete`."""
        return calls.deleted(await self._run(self._calls.delete(id_hash)))

    async def _replicated(self, name: str) -> None:
        try:
            if blocking():
                count = self.link.replicas_sync(name, self._replicas)
            else:
                count = await self.link.replicas(name, self._replicas)
        except (RedisUnavailable, RedisReplyError) as error:
            raise SessionNotReplicated(f"replicas could not be waited for: {error}") from error
        if count < self._replicas:
            raise SessionNotReplicated(
                f"{count} replicas hold the session's change, and HOLDFAST_REDIS_WAIT asks for "
                f"{self._replicas}"
            )

    async def _run(self, call: calls.Call, *, wait: bool = True) -> Reply:
        try:
            if blocking():
                reply = self.link.run_sync(call.script, call.keys, call.args)
            else:
                reply = await self.link.run(call.script, call.keys, call.args)
        except RedisUnavailable as error:
            raise SessionUnavailable(str(error)) from error
        except RedisReplyError as error:
            raise calls.corrupt(error) from error
        if wait and self._replicas:
            await self._replicated(call.keys[0])
        return reply
