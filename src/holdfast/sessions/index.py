"""The public index of a user's sessions: list them, end one, end all.

What is kept, and how it is asked, is in ``users.py``; here it is put into the words of an account
page. Nothing here lets anybody in, and no request reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from holdfast.errors import ConfigurationError
from holdfast.runtime import runtime
from holdfast.sessions.choice import default_store
from holdfast.sessions.events import SessionDestroyed, announcer
from holdfast.sessions.store import Outcome
from holdfast.sessions.users import SessionInfo, perform, perform_sync, user_index

if TYPE_CHECKING:
    from holdfast.sessions.store import SessionStore
    from holdfast.settings import Settings


class Named(Protocol):
    """Whatever tells which session it is: a session, or a :class:`SessionInfo`."""

    @property
    def id_hash(self) -> str:
        """The session's public name."""
        ...


class _Index:
    """What the asynchronous and the plain index share."""

    def __init__(
        self, settings: Settings | None = None, *, store: SessionStore | None = None
    ) -> None:
        default = runtime(settings)
        self._store = default_store(default) if store is None else store
        found = user_index(self._store)
        if found is None:
            raise ConfigurationError(
                f"{type(self._store).__name__} keeps no index of users: a SessionIndex needs "
                "holdfast's store in Redis or in memory"
            )
        self._users = found
        self._idle = default.settings.session_idle_timeout
        self._announcer = announcer(default)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._store!r}>"

    def _tell(self, id_hash: str) -> None:
        self._announcer.tell(SessionDestroyed(id_hash=id_hash, reason="revoked"))


class SessionIndex(_Index):
    """Which sessions a user has, and how to end them: the page "where you are logged in".

    A user is whom the session's user key names (``HOLDFAST_SESSION_USER_KEY``). At most 1000
    sessions of a user are kept in it, those that end last.

    Args:
        settings: in place of those of the environment.
        store: in place of what ``HOLDFAST_SESSION_STORE`` names; one of holdfast's own.

    Raises:
        ConfigurationError: the store is another's, and has no index.
    """

    async def list(self, user: object) -> list[SessionInfo]:
        """Return the sessions of *user* (taken as ``str``), the last seen first.

        Raises:
            SessionUnavailable: Redis is away.
        """
        found, _ = await perform(self._users.link, self._users.listing(str(user), self._idle))
        return found

    async def show(self, id_hash: str) -> SessionInfo | None:
        """Return one session with the sizes of its values; ``None`` where it is not there.

        Raises:
            SessionUnavailable: Redis is away.
        """
        return await perform(self._users.link, self._users.showing(id_hash, self._idle))

    async def revoke(self, id_hash: str) -> bool:
        """End one session, with its streams and sockets, in every process.

        Returns:
            Whether it was there. While Redis is away and ``HOLDFAST_SESSION_ON_OUTAGE`` is
            ``local`` the logout waits for its return, and the answer is true.

        Raises:
            SessionUnavailable: Redis is away.
        """
        outcome = await self._store.delete(id_hash)
        self._tell(id_hash)
        return outcome is Outcome.DONE

    async def revoke_all(self, user: object, *, keep: str | Named | None = None) -> int:
        """End all sessions of *user* but one.

        Args:
            user: whose, taken as ``str``.
            keep: the ``id_hash`` of the one that stays, or that session itself.

        Returns:
            How many were there.

        Raises:
            SessionUnavailable: Redis is away, so that nobody can say which they are; where it goes
                away in between, some are ended.
        """
        user, kept = str(user), _id_hash(keep)
        found, unborn = await perform(self._users.link, self._users.listing(user, self._idle))
        ended = [each.id_hash for each in found if each.id_hash != kept]
        count = 0
        for id_hash in ended:
            count += await self.revoke(id_hash)
        # Noted, and on their way: they are not created any more.
        for id_hash in set(unborn) - {kept}:
            await self._store.delete(id_hash)
            ended.append(id_hash)
        await perform(self._users.link, self._users.forgetting(user, ended))
        return count


class SyncSessionIndex(_Index):
    """:class:`SessionIndex` as plain calls, for threads without an event loop.

    Takes the same arguments. While Redis is away every call raises ``SessionUnavailable``.
    """

    def list(self, user: object) -> list[SessionInfo]:
        """See :meth:`SessionIndex.list`."""
        found, _ = perform_sync(self._users.link, self._users.listing(str(user), self._idle))
        return found

    def show(self, id_hash: str) -> SessionInfo | None:
        """See :meth:`SessionIndex.show`."""
        return perform_sync(self._users.link, self._users.showing(id_hash, self._idle))

    def revoke(self, id_hash: str) -> bool:
        """See :meth:`SessionIndex.revoke`."""
        was_there = perform_sync(self._users.link, self._users.revoking(id_hash))
        self._tell(id_hash)
        return was_there

    def revoke_all(self, user: object, *, keep: str | Named | None = None) -> int:
        """See :meth:`SessionIndex.revoke_all`."""
        user, kept = str(user), _id_hash(keep)
        found, unborn = perform_sync(self._users.link, self._users.listing(user, self._idle))
        ended = [each.id_hash for each in found if each.id_hash != kept]
        count = sum(self.revoke(id_hash) for id_hash in ended)
        for id_hash in set(unborn) - {kept}:
            perform_sync(self._users.link, self._users.revoking(id_hash))
            ended.append(id_hash)
        perform_sync(self._users.link, self._users.forgetting(user, ended))
        return count


def _id_hash(session: str | Named | None) -> str | None:
    return session if session is None or isinstance(session, str) else session.id_hash
