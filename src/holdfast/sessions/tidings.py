"""What one middleware tells of its sessions, and to whom: events, and the index of users.

Between the exchange, which knows what happened, and those who want to know. Nothing here changes a
session, and no failure here reaches a request.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from holdfast.errors import CorruptData, SessionUnavailable
from holdfast.sessions.users import Origin, perform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from holdfast.sessions.events import Announcer, SessionEvent
    from holdfast.sessions.users import UserIndex

logger = logging.getLogger("holdfast.sessions")

# Stores keep milliseconds.
_SAME_END = 0.002


class Tidings:
    """Tells events, and keeps the index.

    Args:
        announcer: of events; ``None``: nobody is told.
        index: of users; ``None``: none is kept.
        address: keep the client's address in the index.
    """

    def __init__(
        self,
        announcer: Announcer | None = None,
        index: UserIndex | None = None,
        *,
        address: bool = False,
    ) -> None:
        self.announcer = announcer
        self._index = index
        self._address = address

    def tell(self, event: SessionEvent, *, secret_hash: str = "") -> None:
        """Tell *event*. See :meth:`Announcer.tell`."""
        if self.announcer is not None:
            self.announcer.tell(event, secret_hash=secret_hash)

    async def note(
        self, user: str | None, id_hash: str, scope: Mapping[str, Any] | None, life: float
    ) -> None:
        """Have the index name a session of *user*, who is about to see it, for *life* seconds."""
        if self._index is None or user is None:
            return
        origin = Origin.of(scope, address=self._address)
        try:
            await perform(self._index.link, self._index.noting(user, id_hash, origin, life))
        except SessionUnavailable:
            self._index.missed(user, id_hash, origin, life)
        except CorruptData as error:
            logger.error("the index of a user's sessions cannot be written: %s", error)  # noqa: TRY400

    async def end_of(self, id_hash: str, idle: float, expires_at: float) -> float | None:
        """Return when a session that may have a new secret ends, by the clock of its store.

        ``None`` where it is not there, where nobody can say, or where older secrets were killed:
        that gave it a new lifetime, which a rotation by age does not. The end may be over, where
        nobody came within the idle timeout.

        Args:
            id_hash: of the session.
            idle: the idle timeout in seconds, 0 for none.
            expires_at: the end of the lifetime that it had, by the same clock: ours may be seconds
                off.

        Raises:
            SessionUnavailable: Redis is away.
        """
        if self._index is None:
            return None
        try:
            found = await perform(self._index.link, self._index.showing(id_hash, 0.0))
        except CorruptData:
            return None
        if found is None or abs(found.expires_at.timestamp() - expires_at) > _SAME_END:
            return None
        end = found.expires_at.timestamp()
        return min(end, found.last_seen_at.timestamp() + idle) if idle > 0 else end

    async def forget(self, user: str | None, id_hash: str) -> None:
        """Have the index know that a session is no longer that of *user*."""
        if self._index is None or user is None:
            return
        try:
            await perform(self._index.link, self._index.forgetting(user, [id_hash]))
        except (SessionUnavailable, CorruptData) as error:
            # It is pruned with its session; until then it stands on a list.
            logger.debug("an entry stays in the index of a user's sessions: %s", error)


#: For an exchange without a middleware: tells nobody.
SILENT = Tidings()
