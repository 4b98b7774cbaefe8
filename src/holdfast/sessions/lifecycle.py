"""The whole policy of a session, as one decision from values to values.

What the request came with, what the store answered, what the handler did, the clock and the terms
go in; commands for the store and what to do with the cookie come out. There is no I/O here and
no state: the truth table of ``tests/sessions/test_lifecycle.py`` is the specification.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.sessions.store import Outcome, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.settings import Settings

#: The server keeps a session no longer than this where the cookie has no Max-Age.
DEFAULT_LIFETIME = 1209600

#: Seconds for which browsers keep a cookie at most (RFC 6265bis, section 5.5): the lifetime where a
#: framework's own expiry counts from the last change or visit, and nobody sets an absolute one.
LONGEST_LIFETIME = 400 * 24 * 3600

#: Who names the user where nothing is configured: Django, Flask-Login, most hand-written logins.
USER_KEYS = ("_auth_user_id", "_user_id", "user_id")


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings that decide. Durations are seconds; 0 is off, except for *lifetime*.

    Attributes:
        lifetime: of a new session, from creation or ``regenerate_id()``; 0 and below: none at all.
        idle_timeout, touch_interval, rotate_after, max_bytes: as the settings of these names.
        user_keys: the first that a session has names its user.
        fresh_keys: read as missing from a stale copy.
        closed: whether an unavailable session is refused at its first access, not its first write.
    """

    lifetime: float = DEFAULT_LIFETIME
    idle_timeout: float = 0.0
    touch_interval: float = 60.0
    rotate_after: float = 0.0
    max_bytes: int = 65536
    user_keys: tuple[str, ...] = USER_KEYS
    fresh_keys: tuple[str, ...] = ()
    closed: bool = False

    @classmethod
    def of(cls, settings: Settings, lifetime: float) -> Terms:
        """Return the terms that *settings* say, for sessions of *lifetime* seconds."""
        key = settings.session_user_key
        return cls(
            lifetime=lifetime,
            idle_timeout=settings.session_idle_timeout,
            touch_interval=settings.session_touch_interval,
            rotate_after=settings.session_rotate_after,
            max_bytes=settings.session_max_bytes,
            user_keys=USER_KEYS if key is None else (key,),
            fresh_keys=settings.session_fresh_keys,
            closed=settings.session_on_outage == "closed",
        )

    def user_of(self, data: Mapping[str, Any]) -> str | None:
        """Return the user that *data* names, ``None`` for nobody."""
        for key in self.user_keys:
            if key in data:
                value = data[key]
                return None if value is None else str(value)
        return None


class Standing(enum.Enum):
    """Where the session of a request stands."""

    NEW = "no cookie that we signed, or none in the store: whatever is written makes a new one"
    FOUND = "in the store"
    OVER = "destroyed or superseded by another request: creates nothing, sends no cookie"
    UNAVAILABLE = "may well exist; the store cannot say"


class Deeds(NamedTuple):
    """What the handler did so far.

    Attributes:
        changed: keys were set or removed, by comparison with what the store holds.
        has_data: keys are there now.
        invalidated: a stored session was invalidated; the standing is that of its successor.
        regenerate: ``regenerate_id()`` was called.
        user_changed: the user named by the session is another than the store's.
        failed: the handler raised.
        started: the response has left, and no header with it any more.
    """

    changed: bool = False
    has_data: bool = False
    invalidated: bool = False
    regenerate: bool = False
    user_changed: bool = False
    failed: bool = False
    started: bool = False


class Command(enum.Enum):
    """What to ask of the store, in this order."""

    DELETE = "delete the invalidated session"
    CREATE = "create, with all data"
    SAVE = "save the change"
    REGENERATE = "save the change with a new secret that kills all older ones"
    RENEW = "save the change with a new secret, the old one in grace"
    TOUCH = "touch"


class Header(enum.Enum):
    """What to do with the browser's cookie."""

    KEEP = "say nothing"
    SET = "Set-Cookie with the present credential"
    REMOVE = "Set-Cookie that removes"


class Notice(enum.Enum):
    """What is dropped, and has to be told."""

    TOO_LATE = "a new session was first written after the response had started"
    USER_TOO_LATE = "the user changed after the response had started"
    DROPPED = "written to a session that another request has ended"


class Decision(NamedTuple):
    """Commands in their order, the cookie if they succeed, and what cannot be done."""

    commands: tuple[Command, ...] = ()
    header: Header = Header.KEEP
    notice: Notice | None = None


NOTHING = Decision()


def decide(
    standing: Standing,
    record: Record | None,
    deeds: Deeds,
    now: float,
    terms: Terms,
    *,
    old_key: bool = False,
) -> Decision:
    """Return what has to happen now: at the response's start, at ``save()`` and at the end.

    Args:
        standing: of the session that the handler sees.
        record: what the store answered, where it is ``FOUND``.
        deeds: what the handler did.
        now: seconds since the epoch, by the clock that the record's times are given in.
        terms: the settings.
        old_key: an older key than the newest signed the cookie.
    """
    if deeds.failed:
        return _after_failure(standing, deeds)
    if deeds.invalidated:
        return _after_invalidate(deeds, terms)
    if standing is Standing.FOUND and record is not None:
        return _of_found(record, deeds, now, terms, old_key=old_key)
    if standing is Standing.NEW:
        return _of_new(deeds, terms)
    if standing is Standing.OVER and deeds.changed:
        return Decision(notice=Notice.DROPPED)
    return NOTHING


def _after_failure(standing: Standing, deeds: Deeds) -> Decision:
    # Nothing of the data is kept, but who asked for the old credential to die is obeyed. A new
    # secret cannot reach the browser any more, so a regeneration is a destruction: both gone,
    # rather than one valid that nobody holds.
    if deeds.invalidated or (deeds.regenerate and standing is Standing.FOUND):
        return Decision((Command.DELETE,))
    return NOTHING


def _after_invalidate(deeds: Deeds, terms: Terms) -> Decision:
    fresh = _of_new(deeds, terms)
    header = fresh.header if fresh.header is Header.SET else Header.REMOVE
    return Decision((Command.DELETE, *fresh.commands), header, fresh.notice)


def _of_new(deeds: Deeds, terms: Terms) -> Decision:
    if not deeds.has_data:
        return NOTHING
    if terms.lifetime <= 0:
        # Starlette's max_age <= 0: the cookie is sent, and expires at once; so does the session.
        return NOTHING if deeds.started else Decision(header=Header.SET)
    if deeds.started:
        return Decision(notice=Notice.TOO_LATE)
    return Decision((Command.CREATE,), Header.SET)


def _of_found(record: Record, deeds: Deeds, now: float, terms: Terms, *, old_key: bool) -> Decision:
    signed_anew = Header.KEEP
    if old_key and not deeds.started and _is_newest(record):
        signed_anew = Header.SET
    if deeds.started and deeds.user_changed:
        return Decision(notice=Notice.USER_TOO_LATE)
    if not deeds.started:
        # A change of user is a change of privilege: the id before it may be known to another
        # (session fixation, CWE-384).
        if deeds.regenerate or deeds.user_changed:
            return Decision((Command.REGENERATE,), Header.SET)
        if _renewal_due(record, now, terms):
            return Decision((Command.RENEW,), Header.SET)
    if deeds.changed:
        return Decision((Command.SAVE,), signed_anew)
    # What is signed anew has to be good still: a login may have been quicker than this page.
    if signed_anew is Header.SET or (not deeds.started and touch_due(record, now, terms)):
        return Decision((Command.TOUCH,), signed_anew)
    return NOTHING


def touch_interval(terms: Terms) -> float:
    """Return the seconds between two touches: the idle error stays below a quarter of it."""
    return min(terms.touch_interval, terms.idle_timeout / 4)


def touch_due(record: Record, now: float, terms: Terms) -> bool:
    """Whether activity has to be written down; without an idle timeout it never has."""
    return terms.idle_timeout > 0 and now - record.seen_at >= touch_interval(terms)


def _is_newest(record: Record) -> bool:
    """Whether the browser cannot have a newer cookie, which this one would replace."""
    # In the grace of a secret another request has given it one; where all that is known is a copy,
    # another process may have.
    return record.current and record.degraded is None


def _renewal_due(record: Record, now: float, terms: Terms) -> bool:
    return (
        terms.rotate_after > 0
        and _is_newest(record)
        and now - record.secret_since >= terms.rotate_after
    )


class Aftermath(NamedTuple):
    """What a command's outcome means: the session's standing, and the cookie.

    *header* is ``None`` where the decision's stands.
    """

    standing: Standing
    header: Header | None = None
    rotated: bool = False


_KEPT = Aftermath(Standing.FOUND)
_ROTATED = Aftermath(Standing.FOUND, rotated=True)


def judge(command: Command, outcome: Outcome) -> Aftermath:
    """Return what *outcome* of *command* means; a taken id never comes here, it is tried anew."""
    if command is Command.DELETE:
        return Aftermath(Standing.NEW)
    if outcome is Outcome.GONE:
        # A late save does not bring a logged-out session back, nor its cookie.
        return Aftermath(Standing.OVER, Header.KEEP)
    if outcome is Outcome.DESTROYED:
        return Aftermath(Standing.NEW, Header.REMOVE)
    if outcome is Outcome.NOT_ROTATED:
        return Aftermath(Standing.FOUND, Header.KEEP)
    rotated = command is Command.REGENERATE or command is Command.RENEW
    return _ROTATED if rotated else _KEPT
