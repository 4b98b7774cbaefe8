"""How many wrong tokens an address may show: only failures count, and a good token always passes.

State only, bounded whatever the number of addresses; no I/O.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from holdfast.forks import watch_forks

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FAILURES = 20
WINDOW = 60.0
MAX_ADDRESSES = 4096


class Attempts:
    """The wrong tokens of the last while, by address.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()
        watch_forks(self)

    def forked(self) -> None:
        """In a forked child: a thread of the parent may hold the lock for ever."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Attempts of {len(self._failures)} addresses>"

    def failed(self, address: str | None) -> int:
        """Count one wrong token.

        Args:
            address: of the client, ``None`` where it has none.

        Returns:
            0, or the seconds after which the next one is answered again, where there have been more
            than ``MAX_FAILURES`` within ``WINDOW`` seconds.
        """
        name, now = _network(address), self._clock()
        with self._lock:
            count, until = self._failures.pop(name, (0, 0.0))
            if now >= until:
                count, until = 0, now + WINDOW
            self._failures[name] = count + 1, until
            if len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
        return math.ceil(until - now) if count >= MAX_FAILURES else 0


def _network(address: str | None) -> str:
    """Who has one IPv6 address has all that differ in its second half (RFC 4291 section 2.5.4)."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return address or ""
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)
