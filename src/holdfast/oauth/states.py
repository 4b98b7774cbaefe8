"""Where pending logins are kept: Redis where one is configured, else the memory of this process.

Each is handed out once, to the browser that began it, until it expires. While Redis is away this
fails: memory in its place would hand the same login out once per process.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from holdfast.forks import watch_forks
from holdfast.oauth.record import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.link.translate import Reply
    from holdfast.runtime import Runtime


class _Login(NamedTuple):
    proof: str
    expires_at: float
    data: bytes


class MemoryStates:
    """Pending logins of one process: safe for threads, bounded, the oldest making room.

    Args:
        max_logins: how many are kept at most. Default 10,000.
        clock: seconds, from any origin.
    """

    def __init__(
        self, max_logins: int = 10_000, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_logins = max_logins
        self._clock = clock
        self._logins: OrderedDict[str, _Login] = OrderedDict()
        self.forked()
        watch_forks(self)

    def forked(self) -> None:
        """Begin, also in a forked child: whoever held the lock may not exist there."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many are kept, those not yet seen to be expired included."""
        return len(self._logins)

    def put(self, key: str, proof: str, lifetime_ms: int, data: bytes) -> bool:
        """Keep a login; false where another browser has one of that name."""
        now = self._clock()
        with self._lock:
            taken = self._logins.get(key)
            if taken is not None and now < taken.expires_at and taken.proof != proof:
                return False
            self._logins.pop(key, None)
            self._make_room(now)
            self._logins[key] = _Login(proof, now + lifetime_ms / 1000, data)
            return True

    def take(self, key: str, proofs: Sequence[str]) -> bytes | Refusal:
        """Hand a login out to the browser that began it, and forget it."""
        now = self._clock()
        with self._lock:
            login = self._logins.get(key)
            if login is None:
                return Refusal.ABSENT
            if now >= login.expires_at:
                del self._logins[key]
                return Refusal.ABSENT
            if not any(hmac.compare_digest(login.proof, proof) for proof in proofs):
                return Refusal.FOREIGN
            del self._logins[key]
            return login.data

    def _make_room(self, now: float) -> None:
        while self._logins:
            oldest = next(iter(self._logins.values()))
            if len(self._logins) < self._max_logins and now < oldest.expires_at:
                break
            self._logins.popitem(last=False)


class States:
    """The pending logins of a runtime, for event loops and for threads.

    Args:
        runtime: whose Redis, or whose memory.

    Raises:
        ConfigurationError: memory, where several workers are to share it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._prefix = f"{runtime.settings.key_prefix}oauth:"
        if runtime.settings.redis_url is None:
            runtime.settings.check_workers()

    @property
    def _memory(self) -> MemoryStates:
        return self._runtime.once("oauth_states", MemoryStates)

    async def put(self, key: str, proof: str, lifetime_ms: int, data: bytes) -> bool:
        """Keep a login; false where another browser has one of that name.

        Raises:
            RedisUnavailable: it cannot be kept.
        """
        link = self._runtime.link
        if link is None:
            return self._memory.put(key, proof, lifetime_ms, data)
        from holdfast.link import Script

        script = Script.load("oauth_issue")
        return await link.run(script, [self._prefix + key], [proof, lifetime_ms, data]) == 1

    def put_sync(self, key: str, proof: str, lifetime_ms: int, data: bytes) -> bool:
        """As `put`, for a thread without an event loop."""
        link = self._runtime.link
        if link is None:
            return self._memory.put(key, proof, lifetime_ms, data)
        from holdfast.link import Script

        script = Script.load("oauth_issue")
        return link.run_sync(script, [self._prefix + key], [proof, lifetime_ms, data]) == 1

    async def take(self, key: str, proofs: Sequence[str]) -> bytes | Refusal:
        """Hand a login out to the browser that began it, and forget it, in one step.

        Raises:
            RedisUnavailable: nobody can say whether it was used.
        """
        link = self._runtime.link
        if link is None:
            return self._memory.take(key, proofs)
        from holdfast.link import Script

        script = Script.load("oauth_consume")
        return _taken(await link.run(script, [self._prefix + key], proofs))

    def take_sync(self, key: str, proofs: Sequence[str]) -> bytes | Refusal:
        """As `take`, for a thread without an event loop."""
        link = self._runtime.link
        if link is None:
            return self._memory.take(key, proofs)
        from holdfast.link import Script

        script = Script.load("oauth_consume")
        return _taken(link.run_sync(script, [self._prefix + key], proofs))


def _taken(reply: Reply) -> bytes | Refusal:
    if isinstance(reply, bytes):
        return reply
    return Refusal.ABSENT if reply is None else Refusal.FOREIGN
