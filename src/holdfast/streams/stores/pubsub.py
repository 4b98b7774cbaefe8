"""The Pub/Sub transport: which runs use it, what their channel carries, and what is heard there.

Values and state without I/O. The events of such a run are passed on and kept nowhere; what is kept
is that the run is there, how many events it had, and its end.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.streams.event import (
    ZERO,
    EventId,
    normalise_data,
    normalise_type,
    parse_id,
    to_json,
)
from holdfast.streams.rollout import Transport, transport_of_new
from holdfast.streams.store import Entry, News
from holdfast.streams.stores import replies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.settings import Settings

MAX_KNOWN = 10_000
_ID, _DATA = b',"id":"', b',"data":'


class Transports:
    """How runs travel, as far as this process knows, and what each write has to say of it.

    Args:
        settings: ``STREAM_ENABLED``, ``STREAM_ROLLOUT``, ``STREAM_CHANNEL``, ``STREAM_DUAL_WRITE``
            and ``KEY_PREFIX``.
    """

    def __init__(self, settings: Settings) -> None:
        self._enabled, self._percent = settings.stream_enabled, settings.stream_rollout
        self._channel = settings.key_prefix + settings.stream_channel
        self._dual = settings.stream_dual_write
        # Then a write has nothing to say, but of a run that is known to be on Pub/Sub.
        self._plain = self._enabled and self._percent >= 100 and not self._dual
        self._live: dict[str, bool] = {}
        self._lock = threading.Lock()

    def forked(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here."""
        self._lock = threading.Lock()

    def channel(self, run_id: str) -> str:
        """Return the Pub/Sub channel of a run; ``KEY_PREFIX`` stands before it as before a key."""
        return self._channel.replace("{run_id}", run_id)

    def options(self, run_id: str) -> Sequence[str]:
        """Return names and values for ``stream_publish``: none in the ordinary case."""
        if self._plain and run_id not in self._live:
            return ()
        # Also of a run that is known: it may have been deleted since, and begin anew.
        begins_live = self._of_new(run_id) == "pubsub"
        if not (begins_live or self._dual or self._live.get(run_id)):
            return ()
        found = ["channel", self.channel(run_id), "run", to_json(run_id)]
        if self._dual:
            found += ["dual", "1"]
        if begins_live:
            found += ["transport", "pubsub"]
        return found

    @staticmethod
    def heard(*, ended: bool) -> Sequence[str]:
        """Return the options that note a run of another program's."""
        return ("transport", "pubsub", "heard", "ended" if ended else "open")

    def learn(self, run_id: str, *, live: bool) -> None:
        """Take note of what a run turned out to use."""
        if self._plain and not live:
            self.forget(run_id)
            return
        if self._live.get(run_id) is live:
            return
        with self._lock:
            self._live[run_id] = live
            if len(self._live) > MAX_KNOWN:
                del self._live[next(iter(self._live))]

    def forget(self, run_id: str) -> None:
        """Know nothing of a run any more: its next life may use the other."""
        if run_id in self._live:
            with self._lock:
                self._live.pop(run_id, None)

    def expects_live(self, run_id: str) -> bool:
        """Whether a run is on Pub/Sub, or would be if it began here and now."""
        known = self._live.get(run_id)
        return self._of_new(run_id) == "pubsub" if known is None else known

    def _of_new(self, run_id: str) -> Transport:
        return transport_of_new(run_id, enabled=self._enabled, percent=self._percent)


@dataclass(slots=True)
class Heard:
    """What one run's bell and channel say, in the order in which one connection brings it.

    The bell of a Pub/Sub run rings before the messages that it is about, and says which they are;
    so the messages carry nothing that their other subscribers have no use for.

    Attributes:
        transport: what the bell has shown the run to use; ``None`` where it has not rung.
    """

    run_id: str
    transport: Transport | None = None
    _life: str | None = None
    _n: int = 0
    _left: int = 0
    _producer: str = ""
    _seq: int = 0

    def bell(self, payload: bytes) -> News | None:
        """Return the news in a ring; ``None`` where the messages that follow bring them."""
        self._left = 0
        if not payload:
            self.transport = None
            return News()
        if b"\n" in payload or payload.count(b":") != 4:
            self.transport = "streams"
            return replies.news(payload)
        life, n, count, self._producer, seq = payload.decode("ascii", "replace").split(":")
        self.transport, self._life = "pubsub", life
        self._left, self._seq = _whole(count), _whole(seq)
        self._n = _whole(n) - self._left + 1
        return None

    def message(self, payload: bytes, now_ms: int) -> News | None:
        """Return the news in a message; ``None`` where it repeats what a stream holds."""
        if self.transport == "streams":
            return None
        entry = _ours(self.run_id, payload)
        if entry is None:
            return News(None, [foreign(payload, now_ms)])
        if not self._left:
            return News(None, [entry])
        entry = entry._replace(n=self._n, producer=self._producer, seq=self._seq, life=self._life)
        self._n, self._left = self._n + 1, self._left - 1
        # A number of 0 is nobody's, and so is the next.
        self._seq += 1 if self._seq else 0
        return News(self._life, [entry], entry.n)


def _ours(run_id: str, payload: bytes) -> Entry | None:
    """Read a message of holdfast's; its data is taken as it is, without parsing it."""
    head = f'{{"run_id":{to_json(run_id)},"type":'.encode()
    if not payload.startswith(head):
        return None
    kind, _, rest = payload[len(head) :].partition(_DATA)
    data, _, tail = rest.rpartition(_ID)
    at = parse_id(tail.partition(b'"')[0].decode("ascii", "replace"))
    try:
        name = json.loads(kind)
    except ValueError:
        return None
    if at is None or not data or not isinstance(name, str):
        return None
    return Entry(at, name, data, created_ms=at.ms, kept=False)


def foreign(payload: bytes, now_ms: int) -> Entry:
    """Read what another program publishes: its ``type`` and ``data``, or all of it as a message."""
    try:
        value: Any = json.loads(payload)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        data = normalise_data(payload)
        return Entry(ZERO, "message", data, created_ms=now_ms, kept=False)
    kind = normalise_type(value["type"].encode("utf-8", "replace"))
    data = normalise_data(json.dumps(value.get("data")).encode())
    return Entry(_id_of(value), kind, data, created_ms=now_ms, kept=False)


def _id_of(value: dict[str, Any]) -> EventId:
    text = value.get("id")
    return (parse_id(text) if isinstance(text, str) else None) or ZERO


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0
