"""What a process does for a Redis that has come back without all that it held.

First it tells again who has logged out here, then it gives back the sessions it has seen. Whatever
was told to Redis by others is stronger: a tombstone, a newer secret, a session that is there.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from holdfast.errors import RedisReplyError
from holdfast.sessions.outage.batches import run_each
from holdfast.sessions.outage.presence import Census, Loss, Presence
from holdfast.sessions.store import TOMBSTONE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from holdfast.link import Recovery
    from holdfast.sessions.store import Record, SessionKey
    from holdfast.sessions.stores.calls import Calls

logger = logging.getLogger("holdfast.sessions")


class Restoration:
    """One process's part in it.

    Args:
        calls: builds the scripts.
        prefix: put before every key.
    """

    def __init__(self, calls: Calls, prefix: str) -> None:
        self._calls = calls
        self._presence = Presence(prefix)

    def ask(self, recovery: Recovery) -> tuple[Census | None, Loss]:
        """Say that this process is there, and hear what Redis may have lost.

        Raises:
            RedisUnavailable: it is gone.
        """
        try:
            census = self._presence.attend(recovery.run)
        except RedisReplyError as error:
            logger.error(  # noqa: TRY400
                "whether Redis has kept its data cannot be seen, because it refuses: %s", error.code
            )
            return None, Loss.NONE
        return census, Loss.NONE if census is None else self._presence.loss(census)

    def acknowledge(self, census: Census | None) -> None:
        """Note that what followed from *census* is done."""
        if census is not None:
            self._presence.acknowledge(census)

    def tell_ended(self, recovery: Recovery, id_hashes: Iterable[str]) -> None:
        """Tell Redis again which sessions have ended here."""
        run_each(recovery, map(self._calls.delete, id_hashes))

    def put_back(
        self, recovery: Recovery, loss: Loss, copies: Sequence[tuple[SessionKey, Record]]
    ) -> int:
        """Give Redis the sessions of *copies* that it has lost; return how many they were."""
        now = time.time()
        replies = run_each(recovery, [self._calls.restore(*copy, now) for copy in copies])
        restored = sum(reply == 1 for reply in replies)
        logger.warning(
            "Redis came back without %s; of the sessions seen by this process %d were put back",
            loss.value,
            restored,
        )
        return restored


def restorable_since(loss: Loss, bridged: float, now: float) -> float | None:
    """Return how old a copy may be that is put back; ``None``: none is.

    Args:
        loss: what Redis may have lost.
        bridged: since when a copy is good to be served, in seconds since the epoch.
        now: in seconds since the epoch.
    """
    if loss is Loss.LATER:
        # Redis remembers a logout, by its tombstone, for no longer: an older copy may be of a
        # session that was ended elsewhere, and nothing would tell so any more.
        return max(bridged, now - TOMBSTONE_SECONDS)
    # Where no more than its last second may be lost, what is not there has been ended by somebody.
    return bridged if loss is Loss.EVERYTHING or loss is Loss.EMPTIED else None
