"""One request's session, from the cookie it came with to the cookie it leaves with.

Its state, how it opens, and what the handler's dict asks of it. What becomes of it in the store is
``commit.py``; an exchange chooses nothing by itself and knows no protocol: the door tells it when
the response starts and when all is over.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Never

from holdfast import signals
from holdfast.errors import CorruptData, SessionError, SessionTooLate, SessionUnavailable
from holdfast.sessions.cookie import Credential, Presented, new_credential
from holdfast.sessions.events import SessionExpired, SessionUnknown
from holdfast.sessions.lifecycle import Header, Notice, Standing, Terms
from holdfast.sessions.request.decoder import Decoder, mark_of
from holdfast.sessions.request.ledger import Ledger
from holdfast.sessions.session import Session
from holdfast.sessions.store import Missing, Record, SessionStore
from holdfast.sessions.tidings import SILENT, Tidings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anyio

    from holdfast.sessions.cookie import CookieAnswer, CookieAttributes, CookieSigner
    from holdfast.sessions.store import Degraded

logger = logging.getLogger("holdfast.sessions")


@dataclass(frozen=True, slots=True)
class Setup:
    """What all exchanges of one middleware share.

    Attributes:
        store: where sessions live.
        signer: signs and verifies cookies.
        attributes: of the cookie.
        terms: the settings that decide.
        unavailable: the error raised to handlers, as their framework's own 503.
        tidings: tells what happens to sessions, and keeps the index of users.
        session_class: of the dict that handlers get.
        decoder: of what is stored.
    """

    store: SessionStore
    signer: CookieSigner
    attributes: CookieAttributes
    terms: Terms
    unavailable: type[SessionUnavailable] = SessionUnavailable
    tidings: Tidings = SILENT
    session_class: type[Session] = Session
    decoder: Decoder = field(default_factory=Decoder, compare=False)


class Exchange:
    """The state of one request's session.

    Args:
        setup: what it shares with others.
        answer: what the cookie said.
        session: the dict that the handler gets; a new one by default.
        excluded: the path is one of ``SESSION_EXCLUDE``: nothing can be written.
    """

    __slots__ = (
        "_excluded",
        "_left",
        "answer",
        "busy",
        "credential",
        "doomed",
        "free",
        "header",
        "ledger",
        "record",
        "scope",
        "session",
        "setup",
        "standing",
        "started",
        "told",
        "user",
        "wants_new_id",
    )

    def __init__(
        self,
        setup: Setup,
        answer: CookieAnswer,
        session: Session | None = None,
        *,
        excluded: bool = False,
    ) -> None:
        self.setup = setup
        self.answer = answer
        self.standing = Standing.NEW
        self.record: Record | None = None
        self.credential: Credential | None = None
        self.doomed: str | None = None
        #: The connection, for the index; set by whoever knows it.
        self.scope: Mapping[str, Any] | None = None
        self.wants_new_id = False
        self.started = False
        self.header = Header.KEEP
        self._excluded = excluded
        self.user: str | None = None
        self.told: tuple[Notice, ...] = ()
        # Whether a task of the request is saving, and what those who wait for it wait for. No lock:
        # this costs nothing where nobody else saves, and needs no event loop.
        self.busy = False
        self.free: anyio.Event | None = None
        self.ledger = Ledger({}, setup.terms.max_bytes)
        self.session = setup.session_class() if session is None else session
        self.session._exchange = self  # noqa: SLF001 - the two halves of one thing

    def release(self) -> None:
        """Note that the request is over: who holds the session holds this, and not vice versa.

        Each holding the other would keep both, with all their data, until the garbage collector
        comes by: that took a tenth of the time of every request.
        """
        self._left = weakref.ref(self.session)
        del self.session
        self.scope = None
        # By a change of class, so that ``session`` is a plain attribute while the request lasts.
        self.__class__ = _LeftExchange

    # --- opening --------------------------------------------------------------------------------

    async def load(self, presented: Presented) -> None:
        """Ask the store for the session that the cookie names: one round trip."""
        key = presented.credential.key
        try:
            found = await self.setup.store.load(key, idle_timeout=self.setup.terms.idle_timeout)
        except SessionUnavailable:
            self.open_unavailable(presented.credential)
        except CorruptData as error:
            self.tell_corrupt(key.id_hash, error)
        else:
            self.open(presented, found)

    def open(self, presented: Presented, found: Record | Missing) -> None:
        """Give the handler what the store found."""
        if isinstance(found, Missing):
            self._open_missing(presented, found)
            return
        id_hash = presented.credential.key.id_hash
        try:
            data, mark = self.setup.decoder.decode(id_hash, found.fields)
        except CorruptData as error:
            self.tell_corrupt(id_hash, error)
            return
        self._open_found(presented, found, data, mark)

    def _open_missing(self, presented: Presented, found: Missing) -> None:
        if found is Missing.SUPERSEDED:
            self.standing = Standing.OVER
        else:
            kind = SessionExpired if found is Missing.EXPIRED else SessionUnknown
            self.setup.tidings.tell(kind(id_hash=presented.credential.key.id_hash))
        logger.debug("a cookie names a session that is not there (%s)", found.value)

    def _open_found(
        self, presented: Presented, found: Record, data: dict[str, Any], mark: object
    ) -> None:
        terms, stored = self.setup.terms, found.fields
        if found.degraded == "stale" and terms.fresh_keys:
            # Hidden from the ledger too, lest they count as removed.
            data = {key: value for key, value in data.items() if key not in terms.fresh_keys}
            mark = mark_of(data)
            stored = {key: stored[key] for key in data}
        self.standing, self.record = Standing.FOUND, found
        self.credential = presented.credential
        self.ledger = Ledger(stored, terms.max_bytes, mark)
        self.user = terms.user_of(data)
        dict.update(self.session, data)

    def begin(self, data: dict[str, Any]) -> None:
        """Give the handler a new session that holds *data* already."""
        dict.update(self.session, data)

    def open_unavailable(self, credential: Credential | None = None) -> None:
        """Give the handler a session that cannot be seen, under *credential* if that is known."""
        self.standing, self.credential = Standing.UNAVAILABLE, credential
        if self.setup.terms.closed:
            self.session = self.session.unreadable()
            self.session._exchange = self  # noqa: SLF001 - as above

    def tell_corrupt(self, id_hash: str, error: CorruptData) -> None:
        """Tell that what is stored cannot be understood."""
        # It reads as absent, and stays in the store for whoever looks into it: what the handler
        # writes goes into a new session.
        signals.count("session_corrupt")
        logger.error("the stored session %.8s… is corrupt and is ignored: %s", id_hash, error)

    # --- what the session asks ------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """See ``Session.available``."""
        return self.standing is not Standing.UNAVAILABLE

    @property
    def is_new(self) -> bool:
        """See ``Session.is_new``."""
        return self.standing is Standing.NEW or self.standing is Standing.OVER

    @property
    def id_hash(self) -> str:
        """See ``Session.id_hash``."""
        if not self.available:
            # The cookie is ours, but whether its secret is still good only the store can tell.
            self.refuse_unavailable()
        if self.credential is None:
            self.credential = new_credential()
        return self.credential.key.id_hash

    @property
    def owner(self) -> str | None:
        """See ``Session.owner``."""
        if not self.available:
            return None
        user = self.setup.terms.user_of(self.session)
        if user is not None:
            return f"user:{user}"
        if self.is_new and not self.session:
            return None
        return f"session:{self.id_hash}"

    @property
    def degraded(self) -> Degraded | None:
        """See ``Session.degraded``."""
        return None if self.record is None else self.record.degraded

    @property
    def ends_at(self) -> float | None:
        """Seconds since the epoch at which the session ends if nobody comes back."""
        if self.record is None:
            return None
        idle = self.setup.terms.idle_timeout
        end = self.record.expires_at
        return min(end, self.record.seen_at + idle) if idle > 0 else end

    def held(self) -> Credential:
        """Return the credential of the stored session, which is there.

        Raises:
            SessionError: it is not.
        """
        if self.credential is None:
            raise SessionError("no session is held")
        return self.credential

    def check_write(self) -> None:
        """Refuse a write that has no prospect, in the handler's own line.

        Raises:
            SessionUnavailable: the store cannot take it now.
            SessionError: the path is excluded.
        """
        if self._excluded:
            raise SessionError(
                "this path is in HOLDFAST_SESSION_EXCLUDE: it has no session to write to"
            )
        if self.standing is Standing.UNAVAILABLE or not self.setup.store.writable:
            self.refuse_unavailable()

    # --- verbs that change the whole ------------------------------------------------------------

    def refuse_unavailable(self) -> Never:
        """Raise what the framework turns into 503."""
        signals.count("session_refused")
        raise self.setup.unavailable("the session cannot be reached while its store is away")

    def regenerate(self) -> None:
        """See ``Session.regenerate_id``."""
        self.check_write()
        if self.started:
            raise SessionTooLate(
                "the response has started: call regenerate_id() before its first byte"
            )
        self.session.mark_accessed()
        self.wants_new_id = self.standing is Standing.FOUND

    def invalidate(self) -> None:
        """See ``Session.invalidate``."""
        unseen = self._ends_unseen()
        if not unseen:
            self.check_write()
        if (unseen or self.standing is Standing.FOUND) and self.credential is not None:
            self.doomed = self.credential.key.id_hash
            self.start_anew(Standing.NEW)
        self.session.clear()

    def _ends_unseen(self) -> bool:
        # To end a session its id is enough, and the signed cookie proves that.
        writable = self.setup.store.writable and not self.setup.terms.closed
        return self.standing is Standing.UNAVAILABLE and self.credential is not None and writable

    def start_anew(self, standing: Standing) -> None:
        """Let go of the stored session; what is written next is a new one, as *standing* says."""
        self.standing, self.record, self.credential = standing, None, None
        self.wants_new_id, self.user = False, None
        self.ledger.forget()

    # --- the cookie -----------------------------------------------------------------------------

    def set_cookie(self) -> bytes | None:
        """Return the value of the ``Set-Cookie`` header that the response needs, if any."""
        if self.header is Header.SET and self.credential is not None:
            value = self.setup.signer.sign(self.credential)
            return self.setup.attributes.set_header(value, self._cookie_max_age())
        if self.header is Header.REMOVE and isinstance(self.answer, Presented):
            return self.setup.attributes.remove_header()
        return None

    def _cookie_max_age(self) -> int | None:
        max_age = self.setup.attributes.max_age
        if max_age is None or self.record is None:
            return max_age
        # A cookie renewed in mid-life ends with its session.
        return min(max_age, math.ceil(self.record.expires_at - time.time()))


class _LeftExchange(Exchange):
    """An exchange after its request. See :meth:`Exchange.release`."""

    __slots__ = ()

    @property
    def session(self) -> Session:  # type: ignore[override]
        """The dict, for whoever still has it and asks or saves by it."""
        session = self._left()
        if session is None:
            raise SessionError("the session of a request that is over was held by nobody")
        return session
