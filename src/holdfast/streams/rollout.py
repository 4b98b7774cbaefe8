"""Which transport a new run gets: a stable hash of its id against a percentage.

Pure. The answer is asked for once, by the first write of a run, and kept with the run: whoever
changes the percentage changes nothing of a run in flight.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

Transport = Literal["streams", "pubsub"]
"""How the events of a run travel: kept in a stream, or passed on by Pub/Sub and kept nowhere."""


def bucket(run_id: str) -> int:
    """Return the place of *run_id* among 100, the same in every process, version and language.

    It is the first eight bytes of the SHA-256 of the id in UTF-8, as a big-endian number, modulo
    100.
    """
    return int.from_bytes(sha256(run_id.encode()).digest()[:8], "big") % 100


def transport_of_new(run_id: str, *, enabled: bool, percent: int) -> Transport:
    """Return the transport with which *run_id* begins.

    A run that uses Streams at one percentage does so at every greater one, so that turning it up
    takes no run back.

    Args:
        enabled: ``HOLDFAST_STREAM_ENABLED``; False beats any percentage.
        percent: ``HOLDFAST_STREAM_ROLLOUT``, 0 to 100.
    """
    if not enabled:
        return "pubsub"
    return "streams" if percent >= 100 or bucket(run_id) < percent else "pubsub"
