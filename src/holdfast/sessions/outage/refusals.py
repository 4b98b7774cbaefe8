"""Rotations that were refused, and that Redis may have made all the same: what is to be undone.

Which they are, and the scripts that undo them. When that is done is the business of the store.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from holdfast.sessions.store import TOMBSTONE_SECONDS

if TYPE_CHECKING:
    from holdfast.sessions.store import Rotation
    from holdfast.sessions.stores.calls import Call, Calls

_MAX_REFUSED = 1000


class Refusals:
    """Those of one process, the oldest first out. Safe for threads.

    Args:
        calls: builds the scripts.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._refused: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._refused)

    def note(self, id_hash: str, rotation: Rotation | None) -> None:
        """Note that a session's browser will not be told of its new secret, if there is one."""
        if rotation is None:
            return
        with self._lock:
            self._refused[rotation.secret_hash] = (id_hash, time.time())
            while len(self._refused) > _MAX_REFUSED:
                self._refused.popitem(last=False)

    def forget(self, rotation: Rotation | None) -> bool:
        """Note that the same is tried again, and may be told; return whether it was refused."""
        if rotation is None or not self._refused:
            return False
        with self._lock:
            return self._refused.pop(rotation.secret_hash, None) is not None

    def undoing(self, id_hash: str | None = None, *, since: float = 0.0) -> list[Call]:
        """Return what undoes those of one session, or of all, that are not too old to be done.

        The last that was refused comes first: it may have been made onto one before it.

        Args:
            id_hash: of the session; ``None`` for all.
            since: those that were refused later, in seconds since the epoch.
        """
        since = max(since, time.time() - TOMBSTONE_SECONDS)
        with self._lock:
            return [
                self._calls.take_back(each, secret_hash)
                for secret_hash, (each, at) in reversed(self._refused.items())
                if at > since and id_hash in {None, each}
            ]
