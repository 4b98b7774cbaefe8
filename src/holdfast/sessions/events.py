"""The life of sessions, told as it happens: values, and who hears of them.

An event says what became of a session, never what was in it, and holds nothing of a cookie. What
happens is decided and carried out elsewhere; here it is only told, and telling it harms nobody:
not the request, not the other listeners.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from holdfast.endings import endings
from holdfast.forks import ForkSafeLock

if TYPE_CHECKING:
    from holdfast.endings import Endings
    from holdfast.runtime import Runtime
    from holdfast.sessions.audit import AuditLog
    from holdfast.settings import Settings

logger = logging.getLogger("holdfast.sessions")


RotationCause = Literal["regenerated", "user changed"]
Refusal = Literal["forged cookie", "two cookies", "too late", "ended"]


@dataclass(frozen=True, kw_only=True)
class SessionEvent:
    """Something that happened to a session; the base of all others.

    Attributes:
        id_hash: of the session, as ``Session.id_hash``; ``None`` where none could be made out.
        user: whom the session names, where that is known. Never in the audit log.
        at: seconds since the epoch.
    """

    name: ClassVar[str] = "session"

    id_hash: str | None
    user: str | None = field(default=None, repr=False)
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class SessionCreated(SessionEvent):
    """A new session is stored."""

    name = "created"


@dataclass(frozen=True, kw_only=True)
class SessionRotated(SessionEvent):
    """It has a new secret, and every older one is dead.

    Attributes:
        reason: ``"regenerated"`` by the app's own word, or ``"user changed"``.
    """

    name = "rotated"

    reason: RotationCause


@dataclass(frozen=True, kw_only=True)
class SessionRenewed(SessionEvent):
    """It has a new secret because of its age; the old one is good for a moment longer."""

    name = "renewed"


@dataclass(frozen=True, kw_only=True)
class SessionDestroyed(SessionEvent):
    """It is gone.

    Attributes:
        reason: ``"invalidated"``, ``"emptied"`` (its last key was removed), or ``"revoked"`` by
            the index or the command line.
    """

    name = "destroyed"

    reason: Literal["invalidated", "emptied", "revoked"]


@dataclass(frozen=True, kw_only=True)
class SessionExpired(SessionEvent):
    """A cookie came whose session is past its lifetime, seen while its data was still there.

    What the store has expired by itself leaves no trace, and is told as :class:`SessionUnknown`.
    """

    name = "expired"


@dataclass(frozen=True, kw_only=True)
class SessionUnknown(SessionEvent):
    """A cookie that we signed names a session that is not there, or not with this secret."""

    name = "unknown"


@dataclass(frozen=True, kw_only=True)
class SessionRefused(SessionEvent):
    """Something was not done, so that no session is stolen, fixed or brought back.

    Attributes:
        reason: ``"forged cookie"`` (none that we signed), ``"two cookies"`` (none is believed),
            ``"too late"`` (a new session or another user after the response had started), or
            ``"ended"`` (a write to a session that another request has ended).
    """

    name = "refused"

    reason: Refusal


Listen = Callable[[SessionEvent], object]

_lock = ForkSafeLock()
_listeners: tuple[Listen, ...] = ()


def on_session_event(listener: Listen) -> Callable[[], None]:
    """Have *listener* called with every event of every session that this process serves.

    It is called in the thread, and on the event loop, that did it: hand what takes time to others.
    What it raises is logged, and harms no request.

    Args:
        listener: takes one :class:`SessionEvent`.

    Returns:
        A function that ends it.

    Raises:
        TypeError: it cannot be called, or is a coroutine function, which nobody would await.
    """
    global _listeners  # noqa: PLW0603 - one tuple, replaced whole, so that telling takes no lock
    if inspect.iscoroutinefunction(listener) or not callable(listener):
        raise TypeError("a listener of session events is a plain function of one argument")
    with _lock():
        _listeners = (*_listeners, listener)

    def end() -> None:
        global _listeners  # noqa: PLW0603 - as above
        with _lock():
            _listeners = tuple(each for each in _listeners if each is not listener)

    return end


class Announcer:
    """Tells what happens to the sessions of one configuration.

    Args:
        audit: gets every event as a line, where one is configured.
        open_ends: gets the endings, for what is served under a session.
    """

    def __init__(self, audit: AuditLog | None = None, open_ends: Endings | None = None) -> None:
        self.endings = open_ends
        self._audit = audit

    def tell(self, event: SessionEvent, *, secret_hash: str = "") -> None:
        """Tell *event* to all. Raises nothing.

        Args:
            event: what happened.
            secret_hash: of the secret that is good after it: what it opened goes on.
        """
        if self.endings is not None and isinstance(event, _ENDS) and event.id_hash is not None:
            self.endings.tell(event.id_hash, secret_hash)
        if self._audit is not None:
            self._audit.write(event)
        for listener in _listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("a listener of session events failed on %r", event.name)


_ENDS = (SessionDestroyed, SessionRotated)


def announcer(runtime: Runtime, settings: Settings | None = None) -> Announcer:
    """Return the one announcer of *runtime*.

    Args:
        runtime: whose audit log it is.
        settings: whose secret key hides the ids, in place of the runtime's.

    Raises:
        ConfigurationError: an audit log is set, and no secret key to hide ids with.
    """
    return runtime.once("session_announcer", lambda: _make(runtime, settings or runtime.settings))


def _make(runtime: Runtime, settings: Settings) -> Announcer:
    audit, path = None, runtime.settings.session_audit_log
    if path is not None:
        from holdfast.sessions.audit import AuditLog

        audit = AuditLog(path, settings.signing_keys()[0])
        runtime.on_flush(audit.aclose)
    return Announcer(audit, endings(runtime))
