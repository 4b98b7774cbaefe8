"""New secrets between Redis and the browser: told of, or refused and taken back.

A rotation without a grace leaves the old secret neither good nor dead in Redis until one of both is
said. A request that is refused does not tell its browser, and Redis may have made the rotation all
the same: that is remembered here until it is too old to be undone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from holdfast.errors import RedisReplyError, RedisUnavailable, SessionUnavailable
from holdfast.sessions.outage.batches import run_each
from holdfast.sessions.store import TOMBSTONE_SECONDS
from holdfast.sessions.stores.sync import blocking

if TYPE_CHECKING:
    from holdfast.link import Link, Recovery
    from holdfast.sessions.store import Rotation
    from holdfast.sessions.stores.calls import Call, Calls

_MAX_REFUSED = 1000


class Rotations:
    """Those of one process; of the refused ones the oldest are forgotten first. Safe for threads.

    Args:
        link: to Redis.
        calls: builds the scripts.
    """

    def __init__(self, link: Link, calls: Calls) -> None:
        self._link = link
        self._calls = calls
        # By the new secret: whose it is, and when it was refused.
        self._refused: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def settle(self, id_hash: str, rotation: Rotation) -> None:
        """Tell Redis that the browser is told of a rotation, and wait for no answer.

        Where Redis does not hear it, the first request with the new secret says the same.
        """
        # With a grace the old secret goes on being good, and nothing is open.
        if rotation.grace > 0:
            return
        call = self._calls.settle(id_hash, rotation.secret_hash)
        if not blocking():
            self._link.post(*call)
            return
        with contextlib.suppress(RedisUnavailable, RedisReplyError):
            self._link.run_sync(*call)

    def refuse(self, id_hash: str, rotation: Rotation) -> None:
        """Note that the browser of a session will not be told of its new secret."""
        with self._lock:
            self._refused[rotation.secret_hash] = (id_hash, time.time())
            while len(self._refused) > _MAX_REFUSED:
                self._refused.popitem(last=False)

    def retry(self, rotation: Rotation | None) -> bool:
        """Note that it is tried again, and may be told; return whether it had been refused."""
        if rotation is None or not self._refused:
            return False
        with self._lock:
            return self._refused.pop(rotation.secret_hash, None) is not None

    def undoing(self, id_hash: str | None = None, *, since: float = 0.0) -> list[Call]:
        """Return the scripts that take back what was refused and is not too old to be done yet.

        The last that was refused comes first: it may have been made onto one before it.

        Args:
            id_hash: of the session; ``None`` for all.
            since: only those that were refused later, in seconds since the epoch.
        """
        since = max(since, time.time() - TOMBSTONE_SECONDS)
        with self._lock:
            return [
                self._calls.take_back(each, secret_hash)
                for secret_hash, (each, at) in reversed(self._refused.items())
                if at > since and id_hash in {None, each}
            ]

    async def take_back(self, id_hash: str) -> None:
        """Take back what was refused of one session, in whichever way the caller waits.

        Raises:
            SessionUnavailable: Redis is away.
        """
        for call in self.undoing(id_hash):
            try:
                if blocking():
                    self._link.run_sync(*call)
                else:
                    await self._link.run(*call)
            except RedisUnavailable as error:
                raise SessionUnavailable(str(error)) from error
            except RedisReplyError:
                return  # what is there now is no session

    def take_all_back(self, recovery: Recovery, *, since: float = 0.0) -> None:
        """Take back all that was refused later than *since*, in the thread of *recovery*.

        Raises:
            RedisUnavailable: Redis is gone.
        """
        run_each(recovery, self.undoing(since=since))
