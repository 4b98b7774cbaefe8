"""The audit log: each event of a session as one line of JSON, in a file that others rotate.

A line holds a keyed hash of the session's ``id_hash``: whoever reads the log can follow one session
through it, and can neither find it in the store nor log in with it. Lines are written by a thread
of their own, so that no request ever waits for a disk.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import hmac
import json
import logging
import os
import queue
import sys
import threading
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from holdfast.forks import watch_forks

if TYPE_CHECKING:
    from holdfast.sessions.events import SessionEvent

logger = logging.getLogger("holdfast.sessions")

# Waiting lines, some megabytes: a disk slower than that is not waited for.
_MAX_WAITING = 10_000
# What a pipe takes as one piece (POSIX, PIPE_BUF on Linux); a file opened for appending takes more.
_PIECE_BYTES = 4096
_LAST_WORD_SECONDS = 2.0
_END = b""
_PURPOSE = b"holdfast.session.audit"


def line_of(event: SessionEvent, key: bytes) -> bytes:
    """Return *event* as a line: time, name, the session's keyed hash, and the reason if any."""
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds")
    fields = {"at": at.replace("+00:00", "Z"), "event": event.name}
    if event.id_hash is not None:
        fields["session"] = hmac.new(key, event.id_hash.encode(), hashlib.sha256).hexdigest()[:32]
    reason = getattr(event, "reason", None)
    if reason is not None:
        fields["reason"] = reason
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


class AuditLog:
    """Appends lines to one file, also from several processes and after the file was rotated.

    A line that cannot be written is lost, and that is told once, until writing works again.

    Args:
        path: of the file, made with mode 600 where it is absent; ``-`` is standard output.
        secret: what the key of the hashes is derived from.
    """

    def __init__(self, path: str, secret: str) -> None:
        self._path = None if path == "-" else path
        self._key = hmac.new(secret.encode(), _PURPOSE, hashlib.sha256).digest()
        self._file: int | None = None
        self._told = False
        self.forked()
        watch_forks(self)
        atexit.register(_at_exit, weakref.ref(self))

    def forked(self) -> None:
        """Begin, also in a forked child: the parent's thread writes what waits in the parent."""
        self._lock = threading.Lock()
        self._waiting: queue.Queue[bytes] = queue.Queue(_MAX_WAITING)
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<AuditLog {self._path or '-'}, {self._waiting.qsize()} waiting>"

    def write(self, event: SessionEvent) -> None:
        """Have *event* written soon. Neither waits nor raises."""
        try:
            self._waiting.put_nowait(line_of(event, self._key))
        except queue.Full:
            self._tell("it is too slow, and events are lost")
        if self._thread is None:
            self._start()

    def flush(self) -> bool:
        """Wait until all is written, at most two seconds; false where it is not."""
        waiting = self._waiting
        with waiting.all_tasks_done:
            return waiting.all_tasks_done.wait_for(
                lambda: not waiting.unfinished_tasks, _LAST_WORD_SECONDS
            )

    async def aclose(self) -> None:
        """Write what waits, and end the thread; the next line starts another."""
        await anyio.to_thread.run_sync(self.flush)
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(_END)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="holdfast-audit", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self._tell("no thread is to be had for it, and its lines wait for the next")
                    return
                self._thread = thread

    def _run(self) -> None:
        while True:
            lines = [self._waiting.get()]
            size = len(lines[0])
            # Several in one piece, as long as it stays one.
            while not self._waiting.empty() and size + len(self._waiting.queue[0]) <= _PIECE_BYTES:
                lines.append(self._waiting.get())
                size += len(lines[-1])
            try:
                self._append(b"".join(lines))
                self._told = False
            except (OSError, ValueError) as error:
                self._close()
                self._tell(getattr(error, "strerror", None) or str(error))
            for _ in lines:
                self._waiting.task_done()
            if _END in lines:
                self._close()
                return

    def _append(self, piece: bytes) -> None:
        file = self._opened()
        while piece:
            piece = piece[os.write(file, piece) :]

    def _opened(self) -> int:
        if self._path is None:
            return sys.__stdout__.fileno() if sys.__stdout__ is not None else 1
        if self._file is not None and not self._is_in_place(self._file):
            self._close()
        if self._file is None:
            # O_APPEND: each write goes to the end as it is then, whoever else writes.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
        return self._file

    def _is_in_place(self, file: int) -> bool:
        """Whether the path still leads to *file*: logrotate moves it, and makes another."""
        try:
            there, ours = Path(str(self._path)).stat(), os.fstat(file)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _tell(self, reason: str) -> None:
        if not self._told:
            self._told = True
            logger.error("HOLDFAST_SESSION_AUDIT_LOG cannot be written: %s", reason)


def _at_exit(reference: weakref.ref[AuditLog]) -> None:
    audit = reference()
    if audit is not None:
        audit.flush()
