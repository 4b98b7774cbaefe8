"""The commit: bringing the store to what the handler did, and telling what became of it.

``lifecycle.decide`` chooses from the facts that are gathered here; what it chose is carried out
here, in its order. Nothing here knows a protocol or a cookie's form.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import anyio

from holdfast import signals
from holdfast.errors import CorruptData, SessionError, SessionTooLate, SessionUnavailable
from holdfast.sessions.cookie import Presented, new_credential
from holdfast.sessions.events import (
    SessionCreated,
    SessionDestroyed,
    SessionRefused,
    SessionRenewed,
    SessionRotated,
)
from holdfast.sessions.lifecycle import (
    NOTHING,
    Command,
    Decision,
    Deeds,
    Header,
    Notice,
    Standing,
    decide,
    judge,
    touch_interval,
)
from holdfast.sessions.request import observed
from holdfast.sessions.store import GRACE_SECONDS, Change, Outcome, Record, Rotation
from holdfast.sessions.stores.sync import blocking, pause

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from holdfast.sessions.cookie import Credential
    from holdfast.sessions.events import Refusal, RotationCause, SessionEvent
    from holdfast.sessions.request.exchange import Exchange
    from holdfast.sessions.store import SessionKey

_T = TypeVar("_T")

logger = logging.getLogger("holdfast.sessions")

# A random id of 144 bits is taken twice in a row only where the random source is broken.
_CREATE_TRIES = 3
# Seconds between two looks at whether another thread of the request has saved.
_RIVAL_PAUSE = 0.001

TOO_LATE = {
    Notice.TOO_LATE: "a new session was first written after the response had started, so its "
    "cookie cannot be sent: write to it before the first byte of the answer",
    Notice.USER_TOO_LATE: "the session's user changed after the response had started, when its id "
    "can no longer be renewed: log in and out before the first byte of the answer",
}


class Plan(NamedTuple):
    """What is to be done with what was there at one moment; the handler's tasks may go on.

    Attributes:
        decision: as ``lifecycle.decide`` made it.
        changed, removed: keys, by comparison with what the store holds.
        user: named by what is stored once it is done.
    """

    decision: Decision
    changed: dict[str, bytes]
    removed: tuple[str, ...]
    user: str | None

    @property
    def can_wait(self) -> bool:
        """Whether nothing is lost if it is not done now: only an old secret is to be renewed."""
        return self.decision.commands == (Command.RENEW,) and not (self.changed or self.removed)


_NOTHING_LEFT = Plan(NOTHING, {}, (), None)


async def save(exchange: Exchange) -> None:
    """See ``Session.save``."""
    notice = planned(exchange).decision.notice
    if notice in TOO_LATE:
        raise SessionTooLate(TOO_LATE[notice])
    await apply(exchange)


async def apply(exchange: Exchange, plan: Plan | None = None, *, failed: bool = False) -> None:
    """Bring the store to what the handler did so far.

    Args:
        exchange: the session.
        plan: what :func:`planned` has just said; by default it is asked.
        failed: the handler raised.

    Raises:
        SessionUnavailable, SessionTooLarge, TypeError: as ``Session.save``.
    """
    if plan is None:
        plan = planned(exchange, failed=failed)
    if not plan.decision.commands:
        conclude(exchange, plan.decision)
        return
    while exchange.busy:
        # Two tasks of one request may save at once; the second looks at what the first left.
        if blocking():
            await pause(_RIVAL_PAUSE)
        else:
            exchange.free = exchange.free or anyio.Event()
            await exchange.free.wait()
        plan = planned(exchange, failed=failed)
    exchange.busy, header = True, exchange.header
    try:
        conclude(exchange, plan.decision)
        work = _carry_out_all(exchange, plan)
        await (observed.save(exchange, work) if signals.observers else work)
    except SessionUnavailable as error:
        if not plan.can_wait:
            signals.count("session_refused")
            raise exchange.setup.unavailable(str(error)) from error
        exchange.header = header
    finally:
        exchange.busy = False
        if exchange.free is not None:
            exchange.free.set()
            exchange.free = None


def asked_to_end(exchange: Exchange, error: BaseException) -> bool:
    """Whether a handler asked for the session, or its secret, to end before it raised *error*."""
    # A rotation that was refused is taken back: the old secret is good again, or another request
    # has rotated since.
    refused = isinstance(error, SessionUnavailable)
    return exchange.doomed is not None or (exchange.wants_new_id and not refused)


def planned(exchange: Exchange, *, failed: bool = False) -> Plan:
    """Return what has to be done now. See :func:`apply` for arguments and errors."""
    changed, removed = ({}, ()) if failed else exchange.ledger.difference(exchange.session)
    if exchange.started and not (changed or removed or failed) and exchange.doomed is None:
        # As decide() would say, at less cost: once the response has started, nothing but a change
        # or an end calls for anything.
        return _NOTHING_LEFT
    terms = exchange.setup.terms
    user = terms.user_of(exchange.session) if changed or removed else exchange.user
    deeds = Deeds(
        changed=bool(changed or removed),
        has_data=dict.__len__(exchange.session) > 0,
        invalidated=exchange.doomed is not None,
        regenerate=exchange.wants_new_id,
        user_changed=exchange.standing is Standing.FOUND and user != exchange.user,
        failed=failed,
        started=exchange.started,
    )
    old_key = isinstance(exchange.answer, Presented) and exchange.answer.old_key
    decision = decide(
        exchange.standing, exchange.record, deeds, time.time(), terms, old_key=old_key
    )
    if decision.notice is Notice.USER_TOO_LATE:
        changed = {k: raw for k, raw in changed.items() if k not in terms.user_keys}
        removed = tuple(k for k in removed if k not in terms.user_keys)
        user = exchange.user
        if changed or removed:
            decision = decision._replace(commands=(Command.SAVE,))
    return Plan(decision, changed, removed, user)


def conclude(exchange: Exchange, decision: Decision) -> None:
    """Note what *decision* says of the cookie, and tell what is dropped by it."""
    if decision.header is not Header.KEEP:
        exchange.header = decision.header
        if decision.header is Header.SET and exchange.credential is None:
            exchange.credential = new_credential()
    if decision.notice is not None:
        _tell(exchange, decision.notice)


def _tell(exchange: Exchange, notice: Notice) -> None:
    if notice in exchange.told:
        return
    exchange.told += (notice,)
    id_hash = None if exchange.credential is None else exchange.credential.key.id_hash
    reason: Refusal = "ended" if notice is Notice.DROPPED else "too late"
    exchange.setup.tidings.tell(SessionRefused(id_hash=id_hash, user=exchange.user, reason=reason))
    level = logging.INFO if notice is Notice.DROPPED else logging.WARNING
    logger.log(level, "%s", TOO_LATE.get(notice, f"a write was dropped: {notice.value}"))


async def _carry_out_all(exchange: Exchange, plan: Plan) -> None:
    for command in plan.decision.commands:
        await _carry_out(exchange, command, plan)


def _carry_out(exchange: Exchange, command: Command, plan: Plan) -> Awaitable[None]:
    if command is Command.DELETE:
        return _delete(exchange)
    if command is Command.CREATE:
        return _create(exchange, plan)
    if command is Command.TOUCH:
        return _touch(exchange)
    return _save(exchange, command, plan)


async def _delete(exchange: Exchange) -> None:
    # Where nothing was invalidated, a regeneration could not be told: see lifecycle.
    doomed = exchange.doomed or exchange.held().key.id_hash
    await exchange.setup.store.delete(doomed)
    exchange.doomed = None
    exchange.setup.tidings.tell(SessionDestroyed(id_hash=doomed, reason="invalidated"))


async def _touch(exchange: Exchange) -> None:
    key, terms = exchange.held().key, exchange.setup.terms
    touching = exchange.setup.store.touch(
        key, idle_timeout=terms.idle_timeout, interval=touch_interval(terms)
    )
    outcome = await gone_if_corrupt(exchange, touching)
    note_outcome(exchange, Command.TOUCH, outcome, Change(), exchange.user)


async def _save(exchange: Exchange, command: Command, plan: Plan) -> None:
    before, key, setup = exchange.user, exchange.held().key, exchange.setup
    credential, rotation = _rotation(exchange, command, plan.user)
    change = Change(plan.changed, plan.removed, rotation)
    if command is Command.REGENERATE:
        await _note_in_index(exchange, plan.user, key.id_hash)
    saving = setup.store.save(key, change, idle_timeout=setup.terms.idle_timeout)
    outcome = await gone_if_corrupt(exchange, saving)
    note_outcome(exchange, command, outcome, change, plan.user, credential)
    if exchange.standing is Standing.FOUND and before != exchange.user:
        await setup.tidings.forget(before, key.id_hash)


async def _note_in_index(exchange: Exchange, user: str | None, id_hash: str) -> None:
    # Before the session is written, so that whoever ends all sessions of a user misses none.
    await exchange.setup.tidings.note(user, id_hash, exchange.scope, exchange.setup.terms.lifetime)


async def gone_if_corrupt(exchange: Exchange, asking: Awaitable[_T]) -> _T | Outcome:
    """Return what the store answers; ``GONE`` where what it holds cannot be understood."""
    try:
        return await asking
    except CorruptData as error:
        # Somebody wrote over it since it was loaded: our session is gone.
        exchange.tell_corrupt(exchange.held().key.id_hash, error)
        return Outcome.GONE


async def _create(exchange: Exchange, plan: Plan) -> None:
    setup, lifetime = exchange.setup, exchange.setup.terms.lifetime
    for _ in range(_CREATE_TRIES):
        credential = exchange.credential or new_credential()
        await _note_in_index(exchange, plan.user, credential.key.id_hash)
        outcome = await setup.store.create(
            credential.key,
            plan.changed,
            max_age=lifetime,
            idle_timeout=setup.terms.idle_timeout,
        )
        if outcome is Outcome.DONE:
            _note_created(exchange, credential, plan)
            return
        exchange.credential = None
    raise SessionError("the store refused every new session id")


def _note_created(exchange: Exchange, credential: Credential, plan: Plan) -> None:
    exchange.credential, exchange.standing = credential, Standing.FOUND
    exchange.record = Record.new(plan.changed, exchange.setup.terms.lifetime, time.time())
    exchange.ledger.settle(plan.changed, ())
    exchange.user = plan.user
    event = SessionCreated(id_hash=credential.key.id_hash, user=plan.user)
    exchange.setup.tidings.tell(event)


def _rotation(
    exchange: Exchange, command: Command, user: str | None
) -> tuple[Credential | None, Rotation | None]:
    if command is Command.SAVE:
        return None, None
    credential = exchange.held().rotated()
    secret_hash = credential.key.secret_hash
    if command is Command.RENEW:
        return credential, Rotation(secret_hash, grace=GRACE_SECONDS)
    # Whoever was logged in asked to be logged out: that stands, also where the answer is lost.
    final = exchange.user is not None and user != exchange.user
    return credential, Rotation(secret_hash, max_age=exchange.setup.terms.lifetime, final=final)


def note_outcome(
    exchange: Exchange,
    command: Command,
    outcome: Outcome,
    change: Change,
    user: str | None,
    credential: Credential | None = None,
) -> None:
    """Note what became of *change*, by which the session is *user*'s.

    It gave the session *credential* where it was rotated.
    """
    aftermath = judge(command, outcome)
    if aftermath.header is not None:
        exchange.header = aftermath.header
    if aftermath.standing is not Standing.FOUND:
        if outcome is Outcome.GONE and (change.set or change.removed):
            _tell(exchange, Notice.DROPPED)
        elif outcome is Outcome.DESTROYED:
            id_hash = exchange.held().key.id_hash
            event = SessionDestroyed(id_hash=id_hash, user=exchange.user, reason="emptied")
            exchange.setup.tidings.tell(event)
        exchange.start_anew(aftermath.standing)
        return
    exchange.user = user
    exchange.ledger.settle(change.set, change.removed)
    if change.rotation is not None and not aftermath.rotated:
        change = change._replace(rotation=None)
    if exchange.record is not None:
        exchange.record = exchange.record.after(change, time.time())
    if aftermath.rotated and credential is not None:
        _tell_rotated(exchange, command, credential.key)
        exchange.wants_new_id, exchange.credential = False, credential


def _tell_rotated(exchange: Exchange, command: Command, key: SessionKey) -> None:
    if command is Command.RENEW:
        event: SessionEvent = SessionRenewed(id_hash=key.id_hash, user=exchange.user)
    else:
        reason: RotationCause = "regenerated" if exchange.wants_new_id else "user changed"
        event = SessionRotated(id_hash=key.id_hash, user=exchange.user, reason=reason)
    exchange.setup.tidings.tell(event, secret_hash=key.secret_hash)
