"""One session by Django's API: what ``SESSION_ENGINE = "holdfast.django"`` gives to a request.

Django's rules for its expiry, over a store that every framework shares. What a session *is* lies in
``sessions/``, how Django is configured in ``django.py``; no cookie is set or removed here.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.utils import timezone

from holdfast import signals
from holdfast.errors import CorruptData, SessionUnavailable
from holdfast.frameworks.django import engine
from holdfast.sessions.cookie import Presented, new_credential
from holdfast.sessions.events import (
    SessionCreated,
    SessionDestroyed,
    SessionExpired,
    SessionRefused,
    SessionRotated,
    SessionUnknown,
)
from holdfast.sessions.lifecycle import LONGEST_LIFETIME, Standing, touch_interval
from holdfast.sessions.request import observed
from holdfast.sessions.request.decoder import mark_of
from holdfast.sessions.request.ledger import Ledger
from holdfast.sessions.store import Change, Missing, Outcome, Record, Rotation
from holdfast.sessions.stores.sync import driven

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from holdfast.sessions.cookie import Credential
    from holdfast.sessions.events import RotationCause
    from holdfast.sessions.imports.importer import Importer

_T = TypeVar("_T")

logger = logging.getLogger("holdfast.sessions")


class SessionStore(SessionBase):  # type: ignore[misc]
    """One session, by Django's whole API, sync and async.

    Values are kept as JSON, key by key, and only the keys that a request changed are written, so
    that two requests at once do not undo each other's. ``SESSION_SERIALIZER`` is not asked.
    ``cycle_key()`` gives the same session a new secret in one step and kills the old one;
    ``session_key`` is the value of the cookie: whoever has it has the session.

    Args:
        session_key: as a cookie brought it; one that no key of ours signed names nothing.

    Raises:
        SessionUnavailable: from every verb that needs the store, while no answer can be given.
            :class:`SessionMiddleware` makes 503 of it.
        SessionTooLarge: from ``save()``, above ``HOLDFAST_SESSION_MAX_BYTES``.
        TypeError: from ``save()``, for a value that JSON cannot carry; it names the key.
    """

    _session_key: str | None  # a property of the base
    _session_cache: dict[str, Any]

    def __init__(self, session_key: str | None = None) -> None:
        #: Whether the store could not be reached.
        self.refused = False
        #: Whether the browser is to keep a cookie that opens nothing here: its secret was replaced
        #: a moment ago, so that there is a newer one; or a key is missing, ours or of the data.
        self.cookie_stays = False
        #: As an ASGI scope has it, for the index of a user's sessions; the middleware sets it.
        self.connection: Mapping[str, Any] | None = None
        self._ended = False
        self._renewed = False
        self._unseen = False
        #: What the store is known to have accepted.
        self._held: Credential | None = None
        self._graced: Credential | None = None
        #: What an older key signed, and when it ends, in seconds since the epoch.
        self.signed_before: tuple[Presented, float] | None = None
        self._ledger: Ledger | None = None
        self._user: str | None = None
        self._user_before: str | None = None
        self._verified: tuple[str, Presented | None] = "", None
        super().__init__(session_key)

    @property
    def id_hash(self) -> str | None:
        """The stable name of the session in the store, which opens nothing; ``None`` for none."""
        presented = self._presented(self.session_key)
        return None if presented is None else presented.credential.key.id_hash

    @property
    def in_grace(self) -> bool:
        """Whether another request has renewed the secret in this key, and has given a new one."""
        presented = self._presented(self.session_key)
        return presented is not None and presented.credential == self._graced

    # --- what Django asks for -------------------------------------------------------------------

    def load(self) -> dict[str, Any]:
        """Return the data; of a session that is not there, nothing, and the key is let go."""
        if self._unseen:
            self.refused = True
            raise SessionUnavailable("the session of another package cannot be looked for now")
        presented = self._presented(self.session_key)
        found, data = (None, {}) if presented is None else self._found(presented)
        if presented is None or not isinstance(found, Record):
            self._tell_missing(presented, found)
            if found is not Missing.SUPERSEDED:
                # Else what is written is refused at the save, and begins no other session.
                self.cookie_stays |= presented is None
                self._session_key = None
            self._keep({}, {})
            return {}
        self._held, stored = presented.credential, dict(found.fields)
        if not found.current:
            self._graced = presented.credential
        elif presented.old_key and found.degraded is None:
            self.signed_before = presented, self._end_of(found, data)
        if found.degraded == "stale":
            for key in engine().setup.terms.fresh_keys:
                data.pop(key, None)
                stored.pop(key, None)
        self._keep(stored, data)
        self._touch(presented, found)
        return data

    def is_empty(self) -> bool:
        """Whether there is nothing to save, as with a key that opens nothing any more."""
        return bool(super().is_empty() or (self.cookie_stays and not self.modified))

    def exists(self, session_key: str | None) -> bool:
        """Whether the store has a session for *session_key*."""
        presented = self._presented(session_key)
        return presented is not None and isinstance(self._found(presented)[0], Record)

    def create(self) -> None:
        """Store a new session, empty unless it was written to, under a key of its own."""
        self._session_key = engine().setup.signer.sign(new_credential())
        self.save(must_create=True)
        self.modified = True

    def save(self, must_create: bool = False) -> None:
        """Store what was changed. See the class for what else is raised.

        Raises:
            CreateError: *must_create*, and the key is taken.
            UpdateError: the session was ended meanwhile, by a logout most likely.
        """
        if self.session_key is None or (self._ended and not must_create):
            self._ended = False
            self.create()
            return
        presented = self._presented(self.session_key)
        if presented is None:
            raise CreateError if must_create else UpdateError
        data, age = self._get_session(no_load=must_create), self.get_expiry_age()
        if age <= 0:
            self.delete()
        elif must_create:
            self._create(presented.credential, data, age)
        else:
            self._update(presented.credential, data, age)
            if presented.old_key:
                self._session_key = engine().setup.signer.sign(presented.credential)

    def delete(self, session_key: str | None = None) -> None:
        """End the session of *session_key*, this one by default; it cannot come back.

        A key whose secret has been replaced ends nothing.
        """
        presented = self._presented(session_key or self.session_key)
        if presented is None or not self._may_end(presented):
            return
        id_hash = presented.credential.key.id_hash
        self._ask(engine().setup.store.delete(id_hash))
        self.signed_before = None
        tidings = engine().setup.tidings
        tidings.tell(SessionDestroyed(id_hash=id_hash, user=self._user, reason="invalidated"))
        driven(tidings.forget(self._user, id_hash))

    def cycle_key(self) -> None:
        """Give the session a new secret and kill the old one, in one step with what was changed.

        Raises:
            SessionInterrupted: the session of a user was ended meanwhile. Django answers 400.
        """
        self._get_session()
        presented = self._presented(self.session_key)
        if presented is not None:
            if self._rotate(presented.credential, "regenerated"):
                return
            if self._user is not None and self._found(presented)[0] is Missing.ABSENT:
                raise SessionInterrupted("The session was ended while its key was to be changed.")
        # Ended meanwhile, or emptied: what this visitor has goes on in a session of its own.
        self.create()

    async def acycle_key(self) -> None:
        """See :meth:`cycle_key`."""
        await sync_to_async(self.cycle_key)()

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing: the store lets go of what has expired by itself."""

    # --- our side -------------------------------------------------------------------------------

    def bring(self, importer: Importer) -> None:
        """Begin with the session of another package, where the visitor has one and none of ours."""
        if self.connection is None or self._presented(self.session_key) is not None:
            return
        found = driven(importer.open(self.connection["headers"], self.connection))
        if found is None:
            return
        if not found.available:
            self._unseen = True
        elif found.standing is Standing.FOUND:
            self._session_key = engine().setup.signer.sign(found.held())
            self.modified = True
        elif found.session:
            self._session_key = None
            self.update(found.session)

    def renew_for_another_user(self) -> None:
        """Give the session a new secret if its user has changed, unless it has one already.

        The old one may be known to others (session fixation, CWE-384). :class:`SessionMiddleware`
        calls it before a save, for who logs in without ``login()``.
        """
        if not self.modified or self._renewed:
            return
        data = self._get_session()
        presented = self._presented(self.session_key)
        user = engine().setup.terms.user_of(data)
        # Compared with who was loaded: a view that called save() has stored the new one already.
        if presented is not None and data and user != self._user_before:
            self._rotate(presented.credential, "user changed")

    def is_newest(self, presented: Presented) -> bool:
        """Whether the browser has no newer cookie: another request may have changed the key."""
        setup = engine().setup
        try:
            key, idle = presented.credential.key, setup.terms.idle_timeout
            found = driven(setup.store.load(key, idle_timeout=idle))
        except (SessionUnavailable, CorruptData):
            return False
        return isinstance(found, Record) and found.current and found.degraded is None

    def _rotate(self, credential: Credential, reason: RotationCause) -> bool:
        """Write what was changed with a new secret; false where there is no session to write to."""
        data = self._get_session()
        self._read()
        setup, new = engine().setup, credential.rotated()
        # Whoever was logged in is not any more, also where the answer is lost.
        final = self._user is not None and setup.terms.user_of(data) != self._user
        rotation = Rotation(new.key.secret_hash, max_age=engine().lifetime, final=final)
        outcome = self._write(credential, data, self.get_expiry_age(), rotation)
        if outcome in {Outcome.GONE, Outcome.DESTROYED}:
            return False
        self._session_key = setup.signer.sign(new)
        self._held, self._renewed, self.modified = new, True, True
        event = SessionRotated(id_hash=new.key.id_hash, user=self._user, reason=reason)
        setup.tidings.tell(event, secret_hash=new.key.secret_hash)
        return True

    def _may_end(self, presented: Presented) -> bool:
        if presented.credential == self._held:
            return True
        try:
            return isinstance(self._found(presented)[0], Record)
        except SessionUnavailable:
            # Unseen it may: to end a session takes no more than its id, which the cookie proves.
            return True

    def _read(self) -> None:
        if self._ledger is None:
            # It was cleared without being read: what is to go has to be known.
            self.load()

    def _presented(self, session_key: str | None) -> Presented | None:
        if not session_key or not session_key.isascii():
            return None
        # A request loads and saves under one key.
        if self._verified[0] != session_key:
            self._verified = session_key, engine().setup.signer.verify(session_key.encode())
        return self._verified[1]

    def _found(self, presented: Presented) -> tuple[Record | Missing, dict[str, Any]]:
        """Ask the store, judge by Django's expiry what it has, and return that with its data."""
        key, setup = presented.credential.key, engine().setup
        try:
            loading = setup.store.load(key, idle_timeout=setup.terms.idle_timeout)
            told = observed.asked(key.id_hash, loading) if signals.observers else loading
            found = self._ask(told)
            self.cookie_stays |= found is Missing.SUPERSEDED
            if not isinstance(found, Record):
                return found, {}
            data, _ = setup.decoder.decode(key.id_hash, found.fields)
        except CorruptData as error:
            self.cookie_stays = True
            signals.count("session_corrupt")
            line = "the stored session %.8s… is corrupt and is ignored: %s", key.id_hash, error
            logger.error(*line)  # noqa: TRY400 - where it was raised says nothing
            return Missing.ABSENT, {}
        past = time.time() >= self._end_of(found, data)
        return (Missing.EXPIRED, {}) if past else (found, data)

    def _tell_missing(self, presented: Presented | None, found: object) -> None:
        tell = engine().setup.tidings.tell
        if presented is not None and not self.cookie_stays:
            kind = SessionExpired if found is Missing.EXPIRED else SessionUnknown
            tell(kind(id_hash=presented.credential.key.id_hash))
        elif presented is None and self.session_key is not None:
            tell(SessionRefused(id_hash=None, reason="forged cookie"))

    def _end_of(self, found: Record, data: dict[str, Any]) -> float:
        # Django counts from the last change, whatever it is by now that a change would set.
        seen = timezone.now() - timedelta(seconds=time.time() - found.seen_at)
        age = self.get_expiry_age(modification=seen, expiry=data.get("_session_expiry"))
        return float(found.seen_at + age)

    def _keep(self, stored: dict[str, bytes], data: dict[str, Any]) -> None:
        terms = engine().setup.terms
        self._ledger = Ledger(stored, terms.max_bytes, mark_of(data))
        self._user = self._user_before = terms.user_of(data)

    def _touch(self, presented: Presented, found: Record) -> None:
        terms = engine().setup.terms
        interval = touch_interval(terms)
        if terms.idle_timeout > 0 and time.time() - found.seen_at >= interval:
            key, idle = presented.credential.key, terms.idle_timeout
            self._ask(engine().setup.store.touch(key, idle_timeout=idle, interval=interval))

    def _create(self, credential: Credential, data: dict[str, Any], age: float) -> None:
        setup = engine().setup
        self._keep({}, {})
        fields = self._difference(data)[0]
        user = setup.terms.user_of(data)
        self._note(user, credential.key.id_hash)
        creating = setup.store.create(
            credential.key, fields, max_age=engine().lifetime, idle_timeout=_idle(age)
        )
        if self._written(credential, creating) is not Outcome.DONE:
            raise CreateError
        self._held, self._renewed = credential, True
        self._settle(fields, (), user)
        setup.tidings.tell(SessionCreated(id_hash=credential.key.id_hash, user=user))

    def _update(self, credential: Credential, data: dict[str, Any], age: float) -> None:
        outcome = self._write(credential, data, age)
        if outcome is Outcome.GONE:
            id_hash, user = credential.key.id_hash, self._user
            engine().setup.tidings.tell(SessionRefused(id_hash=id_hash, user=user, reason="ended"))
            raise UpdateError
        # Its last key is gone and it with it; what is written to it next begins a new one.
        self._ended = outcome is Outcome.DESTROYED

    def _write(
        self,
        credential: Credential,
        data: dict[str, Any],
        age: float,
        rotation: Rotation | None = None,
    ) -> Outcome:
        """Write what *data* has that the store has not, and note it."""
        setup, id_hash = engine().setup, credential.key.id_hash
        self._read()
        changed, removed = self._difference(data)
        before, user = self._user, setup.terms.user_of(data)
        if user != before:
            self._note(user, id_hash)
        # To the second: the cookie's age counts from this save, as Django's sessions do.
        change = Change(changed, removed, rotation, noted=True)
        saving = setup.store.save(credential.key, change, idle_timeout=_idle(age))
        outcome = self._written(credential, saving)
        if outcome is not Outcome.GONE:
            self._settle(changed, removed, user)
        if user != before:
            driven(setup.tidings.forget(before, id_hash))
        return outcome

    def _note(self, user: str | None, id_hash: str) -> None:
        # First, so that no session of a user is ever missed by who ends them all.
        driven(engine().setup.tidings.note(user, id_hash, self.connection, engine().lifetime))

    def _difference(self, data: dict[str, Any]) -> tuple[dict[str, bytes], tuple[str, ...]]:
        return ({}, ()) if self._ledger is None else self._ledger.difference(data)

    def _settle(
        self, changed: dict[str, bytes], removed: tuple[str, ...], user: str | None
    ) -> None:
        if self._ledger is not None:
            self._ledger.settle(changed, removed)
        self._user = user

    def _written(self, credential: Credential, saving: Coroutine[Any, Any, Outcome]) -> Outcome:
        id_hash = credential.key.id_hash
        return self._ask(observed.written(id_hash, saving) if signals.observers else saving)

    def _ask(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        try:
            return driven(coroutine)
        except SessionUnavailable:
            self.refused = True
            signals.count("session_refused")
            raise


def _idle(age: float) -> float:
    """Return after how many seconds without a change the store may let go of a session."""
    idle = engine().setup.terms.idle_timeout
    return min(age, idle) if idle > 0 else min(age, LONGEST_LIFETIME)
