"""Whose activity this process has noted a moment ago, so that it need not be noted again.

Pure but for its own dictionary: times come in, and what to tell the script that saves goes out. The
script has the last word: it goes by it only where nobody has touched the session since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdfast.sessions.stores.calls import is_plain

if TYPE_CHECKING:
    from holdfast.sessions.store import Change, SessionKey

#: Asks for what is to be told the next time; see ``link/scripts/session_again.lua``.
ASK = b"?"
_NEITHER = b""

_MOST_SESSIONS = 1024
# Keys of one change: Lua unpacks no more than some thousand values at once.
_MOST_KEYS = 500


class _Note(NamedTuple):
    metadata: bytes
    idle_timeout: float
    at: float


class Noted:
    """The sessions whose activity was noted here, and when.

    Args:
        interval: seconds within which it is not noted again, or a quarter of the idle timeout, if
            that is less; 0: it is always noted.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._notes: dict[SessionKey, _Note] = {}

    def asked(self, key: SessionKey, change: Change, idle_timeout: float, now: float) -> bytes:
        """Return what to tell the script with *change*.

        Args:
            key: of the session.
            change: what is saved.
            idle_timeout: seconds; another one than before moves the end of the session.
            now: seconds by a clock that is never set back.
        """
        if self._interval <= 0 or change.noted:
            return _NEITHER
        if not is_plain(change) or not 0 < len(change.set) <= _MOST_KEYS:
            return _NEITHER
        note = self._notes.get(key)
        if note is None or note.idle_timeout != idle_timeout:
            return ASK
        lasts = min(self._interval, idle_timeout / 4) if idle_timeout > 0 else self._interval
        return note.metadata if now - note.at < lasts else ASK

    def learn(self, key: SessionKey, metadata: bytes, idle_timeout: float, at: float) -> None:
        """Note that activity was noted at *at* or later, which gave the session *metadata*."""
        # Only for the present secret: one in its grace opens the session for some seconds more.
        if metadata.split(b" ", 2)[1] != key.secret_hash.encode():
            return
        # All are forgotten at once: choosing the oldest would take a lock.
        if len(self._notes) >= _MOST_SESSIONS:
            self._notes.clear()
        self._notes[key] = _Note(metadata, idle_timeout, at)
