"""One request's session, from the cookie it came with to the cookie it leaves with.

An exchange gathers the facts, has ``lifecycle.decide`` choose and carries the choice out on the
store. It chooses nothing by itself and knows no protocol: the ASGI door tells it when the response
starts and when all is over.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Never, TypeVar

import anyio

from holdfast.errors import (
    CorruptData,
    SessionError,
    SessionTooLate,
    SessionUnavailable,
)
from holdfast.sessions.cookie import Credential, Presented, new_credential
from holdfast.sessions.events import (
    SessionCreated,
    SessionDestroyed,
    SessionExpired,
    SessionRefused,
    SessionRenewed,
    SessionRotated,
    SessionUnknown,
)
from holdfast.sessions.ledger import Ledger
from holdfast.sessions.lifecycle import (
    Command,
    Decision,
    Deeds,
    Header,
    Notice,
    Standing,
    Terms,
    decide,
    judge,
    touch_interval,
)
from holdfast.sessions.record import decode_fields
from holdfast.sessions.session import Session, UnreadableSession
from holdfast.sessions.store import (
    GRACE_SECONDS,
    Change,
    Missing,
    Outcome,
    Record,
    Rotation,
    SessionStore,
)
from holdfast.sessions.tidings import SILENT, Tidings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from holdfast.sessions.cookie import CookieAnswer, CookieAttributes, CookieSigner
    from holdfast.sessions.events import Refusal, RotationCause, SessionEvent
    from holdfast.sessions.store import Degraded, SessionKey

_T = TypeVar("_T")

logger = logging.getLogger("holdfast.sessions")

# A random id of 144 bits is taken twice in a row only where the random source is broken.
_CREATE_TRIES = 3

_TOO_LATE = {
    Notice.TOO_LATE: "a new session was first written after the response had started, so its "
    "cookie cannot be sent: write to it before the first byte of the answer",
    Notice.USER_TOO_LATE: "the session's user changed after the response had started, when its id "
    "can no longer be renewed: log in and out before the first byte of the answer",
}


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
    """

    store: SessionStore
    signer: CookieSigner
    attributes: CookieAttributes
    terms: Terms
    unavailable: type[SessionUnavailable] = SessionUnavailable
    tidings: Tidings = SILENT


class _Plan(NamedTuple):
    """What is to be done with what was there at one moment; the handler's tasks may go on."""

    decision: Decision
    changed: dict[str, bytes]
    removed: tuple[str, ...]
    #: Named by what is stored once it is done.
    user: str | None

    @property
    def can_wait(self) -> bool:
        """Whether nothing is lost if it is not done now: only an old secret is to be renewed."""
        return self.decision.commands == (Command.RENEW,) and not (self.changed or self.removed)


class Exchange:
    """The state of one request's session.

    Args:
        setup: what it shares with others.
        answer: what the cookie said.
        session: the dict that the handler gets; a new one by default.
        excluded: the path is one of ``SESSION_EXCLUDE``: nothing can be written.
    """

    __slots__ = (
        "_busy",
        "_excluded",
        "_free",
        "_ledger",
        "_told",
        "_user",
        "answer",
        "credential",
        "doomed",
        "header",
        "record",
        "scope",
        "session",
        "setup",
        "standing",
        "started",
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
        self._user: str | None = None
        self._told: set[Notice] = set()
        # Not a lock: without a rival it costs nothing, and needs no event loop.
        self._busy = False
        self._free: anyio.Event | None = None
        self._ledger = Ledger({}, {}, setup.terms.max_bytes)
        self.session = self._bind(Session() if session is None else session)

    # --- opening --------------------------------------------------------------------------------

    async def load(self, presented: Presented) -> None:
        """Ask the store for the session that the cookie names: one round trip."""
        key = presented.credential.key
        try:
            found = await self.setup.store.load(key, idle_timeout=self.setup.terms.idle_timeout)
        except SessionUnavailable:
            self.open_unavailable(presented.credential)
        except CorruptData as error:
            self._tell_corrupt(key.id_hash, error)
        else:
            self.open(presented, found)

    def open(self, presented: Presented, found: Record | Missing) -> None:
        """Give the handler what the store found."""
        if isinstance(found, Missing):
            self._open_missing(presented, found)
            return
        try:
            data = decode_fields(found.fields)
        except CorruptData as error:
            self._tell_corrupt(presented.credential.key.id_hash, error)
            return
        self._open_found(presented, found, data)

    def _open_missing(self, presented: Presented, found: Missing) -> None:
        if found is Missing.SUPERSEDED:
            self.standing = Standing.OVER
        else:
            kind = SessionExpired if found is Missing.EXPIRED else SessionUnknown
            self.setup.tidings.tell(kind(id_hash=presented.credential.key.id_hash))
        logger.debug("a cookie names a session that is not there (%s)", found.value)

    def _open_found(self, presented: Presented, found: Record, data: dict[str, Any]) -> None:
        terms, stored = self.setup.terms, found.fields
        if found.degraded == "stale" and terms.fresh_keys:
            # Hidden from both sides: not seen, and not taken for removed.
            data = {key: value for key, value in data.items() if key not in terms.fresh_keys}
            stored = {key: stored[key] for key in data}
        self.standing, self.record = Standing.FOUND, found
        self.credential = presented.credential
        self._ledger = Ledger(stored, data, terms.max_bytes)
        self._user = terms.user_of(data)
        dict.update(self.session, data)

    def begin(self, data: dict[str, Any]) -> None:
        """Give the handler a new session that holds *data* already."""
        dict.update(self.session, data)

    def open_unavailable(self, credential: Credential | None = None) -> None:
        """Give the handler a session that cannot be seen, under *credential* if that is known."""
        self.standing, self.credential = Standing.UNAVAILABLE, credential
        if self.setup.terms.closed:
            self.session = self._bind(UnreadableSession())

    def _bind(self, session: Session) -> Session:
        session._exchange = self  # noqa: SLF001 - the two halves of one thing
        return session

    def _tell_corrupt(self, id_hash: str, error: CorruptData) -> None:
        # It reads as absent, and stays where it is for whoever looks into it: what the handler
        # writes gets an id of its own.
        logger.error("the stored session %.8s… is corrupt and is ignored: %s", id_hash, error)

    # --- what the session asks ------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """See ``Session.available``."""
        return self.standing is not Standing.UNAVAILABLE

    @property
    def is_new(self) -> bool:
        """See ``Session.is_new``."""
        return self.standing in {Standing.NEW, Standing.OVER}

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
    def ends_at(self) -> float | None:
        """Seconds since the epoch at which the session ends if nobody comes back."""
        if self.record is None:
            return None
        idle = self.setup.terms.idle_timeout
        end = self.record.expires_at
        return min(end, self.record.seen_at + idle) if idle > 0 else end

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
        if not self.available or not self.setup.store.writable:
            self.refuse_unavailable()

    def check_values(self, values: Any) -> None:
        """Refuse values that cannot be kept. See :meth:`Ledger.note` for the errors."""
        self._ledger.note(values, self.session)

    # --- one key in one piece, for verbs.py -----------------------------------------------------

    def swaps(self, key: str) -> bool:
        """Whether *key* can be changed in the store at once, else by a plain write.

        Raises:
            SessionTooLate: a plain write would have no prospect: the response has started.
            SessionUnavailable: the value cannot be known while Redis is away.
        """
        self.check_write()
        terms, stale = self.setup.terms, self.degraded == "stale"
        if stale and key in terms.fresh_keys:
            self.refuse_unavailable()
        # A change of user changes the secret too, and that is the commit's business.
        plain = self.standing is not Standing.FOUND or key in terms.user_keys
        if plain and self.started and self.standing is not Standing.OVER:
            new = self.standing is Standing.NEW
            raise SessionTooLate(_TOO_LATE[Notice.TOO_LATE if new else Notice.USER_TOO_LATE])
        return not plain

    @property
    def degraded(self) -> Degraded | None:
        """See ``Session.degraded``."""
        return None if self.record is None else self.record.degraded

    def raw(self, key: str) -> tuple[bytes | None, bool]:
        """Return the JSON of a key's value here, and whether the store holds the same."""
        return self._ledger.raw(key, self.session)

    def judged(self, key: str, value: Any) -> bytes:
        """Return the JSON of *value*, once it may be stored. See :meth:`Ledger.note`."""
        return self._ledger.note({key: value}, self.session)[key]

    async def stored(self, key: str) -> bytes | Outcome | None:
        """Ask the store for one value; ``GONE`` where the session is no more."""
        idle = self.setup.terms.idle_timeout
        loading = self.setup.store.load(self._held().key, idle_timeout=idle)
        found = await self._asked(self._written(loading))
        return found.fields.get(key) if isinstance(found, Record) else Outcome.GONE

    async def swap(self, change: Change) -> Outcome:
        """Have the store apply *change* now."""
        idle = self.setup.terms.idle_timeout
        saving = self.setup.store.save(self._held().key, change, idle_timeout=idle)
        return await self._asked(self._written(saving))

    async def increment(self, key: str, by: int) -> int | Outcome:
        """Have the store add to one value now."""
        idle = self.setup.terms.idle_timeout
        adding = self.setup.store.increment(self._held().key, key, by, idle_timeout=idle)
        return await self._asked(self._written(adding))

    async def _asked(self, asking: Awaitable[_T]) -> _T:
        try:
            return await asking
        except SessionUnavailable as error:
            raise self.setup.unavailable(str(error)) from error

    def learn(self, key: str, raw: bytes, value: Any) -> None:
        """Note that the store holds *raw* now, which is *value*."""
        session = self.session
        session.accessed = session.modified = True
        dict.__setitem__(session, key, value)
        if self.standing is Standing.FOUND and self.record is not None:
            self._ledger.settle({key: raw}, ())
            self.record.seen_at = time.time()

    def end(self, outcome: Outcome) -> None:
        """Note that a write of one key found the session no more."""
        self._settle(Command.SAVE, outcome, None, {"": b""}, ())

    # --- verbs that change the whole ------------------------------------------------------------

    def refuse_unavailable(self) -> Never:
        """Raise what the framework turns into 503."""
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
            self._start_anew(Standing.NEW)
        self.session.clear()

    def _ends_unseen(self) -> bool:
        # To end a session takes no more than its id, which the cookie proves.
        writable = self.setup.store.writable and not self.setup.terms.closed
        return self.standing is Standing.UNAVAILABLE and self.credential is not None and writable

    def _start_anew(self, standing: Standing) -> None:
        self.standing, self.record, self.credential = standing, None, None
        self.wants_new_id, self._user = False, None
        self._ledger.forget()

    # --- carrying out ---------------------------------------------------------------------------

    async def save(self) -> None:
        """See ``Session.save``."""
        notice = self._decide().decision.notice
        if notice in _TOO_LATE:
            raise SessionTooLate(_TOO_LATE[notice])
        await self.apply()

    async def apply(self, *, failed: bool = False) -> None:
        """Bring the store to what the handler did so far.

        Args:
            failed: the handler raised.

        Raises:
            SessionUnavailable, SessionTooLarge, TypeError: as ``Session.save``.
        """
        plan = self._decide(failed=failed)
        if not plan.decision.commands:
            self._conclude(plan.decision)
            return
        while self._busy:
            # Two tasks of one request may save at once; the second looks at what the first left.
            self._free = self._free or anyio.Event()
            await self._free.wait()
            plan = self._decide(failed=failed)
        self._busy, header = True, self.header
        try:
            self._conclude(plan.decision)
            for command in plan.decision.commands:
                await self._carry_out(command, plan)
        except SessionUnavailable as error:
            if not plan.can_wait:
                raise self.setup.unavailable(str(error)) from error
            self.header = header
        finally:
            self._busy = False
            if self._free is not None:
                self._free.set()
                self._free = None

    def _decide(self, *, failed: bool = False) -> _Plan:
        changed, removed = ({}, ()) if failed else self._ledger.difference(self.session)
        terms = self.setup.terms
        user = terms.user_of(self.session) if changed or removed else self._user
        deeds = Deeds(
            changed=bool(changed or removed),
            has_data=dict.__len__(self.session) > 0,
            invalidated=self.doomed is not None,
            regenerate=self.wants_new_id,
            user_changed=self.standing is Standing.FOUND and user != self._user,
            failed=failed,
            started=self.started,
        )
        old_key = isinstance(self.answer, Presented) and self.answer.old_key
        decision = decide(self.standing, self.record, deeds, time.time(), terms, old_key=old_key)
        if decision.notice is Notice.USER_TOO_LATE:
            changed = {k: raw for k, raw in changed.items() if k not in terms.user_keys}
            removed = tuple(k for k in removed if k not in terms.user_keys)
            user = self._user
            if changed or removed:
                decision = decision._replace(commands=(Command.SAVE,))
        return _Plan(decision, changed, removed, user)

    def _conclude(self, decision: Decision) -> None:
        if decision.header is not Header.KEEP:
            self.header = decision.header
            if decision.header is Header.SET and self.credential is None:
                self.credential = new_credential()
        self._tell(decision.notice)

    def _tell(self, notice: Notice | None) -> None:
        if notice is None or notice in self._told:
            return
        self._told.add(notice)
        id_hash = None if self.credential is None else self.credential.key.id_hash
        reason: Refusal = "ended" if notice is Notice.DROPPED else "too late"
        self.setup.tidings.tell(SessionRefused(id_hash=id_hash, user=self._user, reason=reason))
        level = logging.INFO if notice is Notice.DROPPED else logging.WARNING
        logger.log(level, "%s", _TOO_LATE.get(notice, f"a write was dropped: {notice.value}"))

    async def _carry_out(self, command: Command, plan: _Plan) -> None:
        store, idle = self.setup.store, self.setup.terms.idle_timeout
        _, changed, removed, user = plan
        if command is Command.DELETE:
            doomed = self._doomed_id()
            await store.delete(doomed)
            self.doomed = None
            self.setup.tidings.tell(SessionDestroyed(id_hash=doomed, reason="invalidated"))
        elif command is Command.CREATE:
            self._settle_created(await self._create(changed, user), changed, user)
        elif command is Command.TOUCH:
            interval = touch_interval(self.setup.terms)
            touched = store.touch(self._held().key, idle_timeout=idle, interval=interval)
            self._settle(command, await self._written(touched), None, {}, ())
        else:
            before, key = self._user, self._held().key
            credential, rotation = self._rotation(command)
            change = Change(changed, removed, rotation)
            if command is Command.REGENERATE:
                await self._note(user, key.id_hash)
            outcome = await self._written(store.save(key, change, idle_timeout=idle))
            if judge(command, outcome).standing is Standing.FOUND:
                self._user = user
            self._settle(command, outcome, credential, changed, removed)
            if self.standing is Standing.FOUND and before != self._user:
                await self.setup.tidings.forget(before, key.id_hash)

    async def _note(self, user: str | None, id_hash: str) -> None:
        # First, so that no session of a user is ever missed by who ends them all.
        await self.setup.tidings.note(user, id_hash, self.scope, self.setup.terms.lifetime)

    async def _written(self, writing: Awaitable[_T]) -> _T | Outcome:
        try:
            return await writing
        except CorruptData as error:
            # Somebody wrote over it since it was loaded: our session is gone.
            self._tell_corrupt(self._held().key.id_hash, error)
            return Outcome.GONE

    def _doomed_id(self) -> str:
        if self.doomed is None:
            return self._held().key.id_hash  # a regeneration that failed: see lifecycle
        return self.doomed

    def _held(self) -> Credential:
        if self.credential is None:
            raise SessionError("no session is held")
        return self.credential

    async def _create(self, fields: dict[str, bytes], user: str | None) -> Credential:
        terms = self.setup.terms
        for _ in range(_CREATE_TRIES):
            credential = self.credential or new_credential()
            await self._note(user, credential.key.id_hash)
            outcome = await self.setup.store.create(
                credential.key, fields, max_age=terms.lifetime, idle_timeout=terms.idle_timeout
            )
            if outcome is Outcome.DONE:
                return credential
            self.credential = None
        raise SessionError("the store refused every new session id")

    def _settle_created(
        self, credential: Credential, fields: dict[str, bytes], user: str | None
    ) -> None:
        now = time.time()
        self.credential, self.standing = credential, Standing.FOUND
        self.record = Record(fields, now, now + self.setup.terms.lifetime, now, now)
        self._ledger.settle(fields, ())
        self._user = user
        self.setup.tidings.tell(SessionCreated(id_hash=credential.key.id_hash, user=self._user))

    def _rotation(self, command: Command) -> tuple[Credential | None, Rotation | None]:
        if command is Command.SAVE:
            return None, None
        credential = self._held().rotated()
        secret_hash = credential.key.secret_hash
        if command is Command.RENEW:
            return credential, Rotation(secret_hash, grace=GRACE_SECONDS)
        return credential, Rotation(secret_hash, max_age=self.setup.terms.lifetime)

    def _settle(
        self,
        command: Command,
        outcome: Outcome,
        credential: Credential | None,
        changed: dict[str, bytes],
        removed: tuple[str, ...],
    ) -> None:
        aftermath = judge(command, outcome)
        if aftermath.header is not None:
            self.header = aftermath.header
        if aftermath.standing is not Standing.FOUND:
            if outcome is Outcome.GONE and (changed or removed):
                self._tell(Notice.DROPPED)
            elif outcome is Outcome.DESTROYED:
                id_hash = self._held().key.id_hash
                event = SessionDestroyed(id_hash=id_hash, user=self._user, reason="emptied")
                self.setup.tidings.tell(event)
            self._start_anew(aftermath.standing)
            return
        self._ledger.settle(changed, removed)
        now = time.time()
        if self.record is not None:
            self.record.seen_at = now
        if aftermath.rotated and self.record is not None and credential is not None:
            self._tell_rotated(command, credential.key)
            self.wants_new_id, self.credential = False, credential
            self.record.secret_since = now
            if command is Command.REGENERATE:
                self.record.expires_at = now + self.setup.terms.lifetime

    def _tell_rotated(self, command: Command, key: SessionKey) -> None:
        if command is Command.RENEW:
            event: SessionEvent = SessionRenewed(id_hash=key.id_hash, user=self._user)
        else:
            reason: RotationCause = "regenerated" if self.wants_new_id else "user changed"
            event = SessionRotated(id_hash=key.id_hash, user=self._user, reason=reason)
        self.setup.tidings.tell(event, secret_hash=key.secret_hash)

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
