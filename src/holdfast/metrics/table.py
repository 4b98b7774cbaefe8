"""Every metric there is: its name, its labels and all their values, and what it says.

Data only: the exporter makes them from it, the documentation prints it, the tests of alerts and
dashboards look names up in it. A label has few values, all known here: never a run, never a
session, never a host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "holdfast_"

#: Upper bounds in seconds. 0.25 is the default of ``HOLDFAST_REDIS_TIMEOUT``.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

#: What a label says whose value is none of those that are known.
OTHER = "other"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        word: what the code says of it: see ``holdfast.signals``.
        kind: what it is to Prometheus; ``total`` is a counter that is read, not counted here.
        help: one sentence.
        labels: the names of its labels.
        values: all their values, together.
    """

    word: str
    kind: Literal["counter", "total", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()

    @property
    def name(self) -> str:
        """The name in PromQL; a histogram's goes on with ``_bucket``, ``_count`` and ``_sum``."""
        ends = {"counter": "_total", "total": "_total", "histogram": "_duration_seconds"}
        return f"{PREFIX}{self.word}{ends.get(self.kind, '')}"


def _each(*values: str) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


_REASONS = _each(
    *("auth", "busy", "canary", "cluster_down", "database", "failover", "loading", "master_down"),
    *("max_clients", "misconf", "no_replicas", "out_of_memory", "protocol", "readonly", "refused"),
    *("reset", "timeout", "tls", "try_again", "unreachable", "unsupported", OTHER),
)
_PUBLISHED = _each(
    "stored", "provisional", "live", "ended", "journal_full", "unavailable", "cancelled", "error"
)

METRICS = (
    Metric("info", "gauge", "Always 1; the version of holdfast is a label.", ("version",)),
    # The link
    Metric(
        "redis_link_state",
        "gauge",
        "1 for the state that the link to Redis is in, 0 for the others; all 0 where none is used.",
        ("state",),
        _each("starting", "up", "suspect", "down", "recovering"),
    ),
    Metric(
        "redis_link_transitions",
        "counter",
        "Changes of that state, by the state that was entered.",
        ("state",),
        _each("up", "suspect", "down", "recovering"),
    ),
    Metric("redis_outages", "counter", "Outages, by why they began.", ("reason",), _REASONS),
    Metric("redis_away_seconds", "total", "Seconds in which Redis was away, the present included."),
    Metric(
        "redis_recovery_errors",
        "counter",
        "Failures of what writes what waited when Redis is back; the log has them.",
    ),
    # Sessions
    Metric(
        "session_load",
        "histogram",
        "Loads of the session that a cookie names, by what was found.",
        ("outcome",),
        _each(
            "found", "stale", "local", "absent", "superseded", "unavailable", "cancelled", "error"
        ),
    ),
    Metric(
        "session_save",
        "histogram",
        "Writes at the end of a request, by save(), incr() or a try of update_with(), by what came"
        " of them; dropped: the session had ended.",
        ("outcome",),
        _each("stored", "dropped", "conflict", "unavailable", "too_large", "cancelled", "error"),
    ),
    Metric(
        "session_events",
        "counter",
        "What became of sessions: the lifecycle events. A logout is destroyed, invalidated.",
        ("event", "reason"),
        (
            ("created", ""),
            ("renewed", ""),
            ("rotated", "regenerated"),
            ("rotated", "user_changed"),
            ("destroyed", "invalidated"),
            ("destroyed", "emptied"),
            ("destroyed", "revoked"),
            ("expired", ""),
            ("unknown", ""),
            ("refused", "forged_cookie"),
            ("refused", "two_cookies"),
            ("refused", "too_late"),
            ("refused", "ended"),
        ),
    ),
    Metric(
        "session_refused",
        "counter",
        "Times that a handler was refused its session because Redis is away (503).",
    ),
    Metric("session_corrupt", "counter", "Stored sessions that could not be understood."),
    Metric("session_copies", "gauge", "Copies of sessions that an outage would be bridged with."),
    Metric("session_journal_sessions", "gauge", "Sessions with changes that Redis has not heard."),
    Metric("session_journal_limit", "gauge", "How many such sessions there may be."),
    Metric("session_journal_full", "total", "Changes refused because the journal is full."),
    Metric(
        "session_replayed",
        "counter",
        "What Redis was told after an outage: sessions written, ended meanwhile, refused by it, or"
        " restored where it had lost them; keys left as they were because of a conflict.",
        ("outcome",),
        _each("written", "ended", "refused", "restored", "conflict"),
    ),
    # Streams
    Metric(
        "stream_publish",
        "histogram",
        "Publishing calls, by what came of them.",
        ("outcome",),
        _PUBLISHED,
    ),
    Metric(
        "stream_events_published",
        "counter",
        "Events published, by what came of them: provisional ones wait for Redis, live ones are"
        " of a Pub/Sub run.",
        ("outcome",),
        _PUBLISHED,
    ),
    Metric("stream_events_delivered", "counter", "Events handed over to readers, each for each."),
    Metric(
        "stream_breaks",
        "counter",
        "Times that a reader was told that events are gone, or that the run began anew.",
        ("kind",),
        _each("gap", "reset"),
    ),
    Metric(
        "stream_readers_dropped",
        "counter",
        "Readers left because they took nothing: silent for long, or behind all that is in memory.",
        ("cause",),
        _each("silent", "behind"),
    ),
    Metric(
        "stream_subscribers",
        "gauge",
        "Open readers; a connection of many runs is one more than its runs.",
    ),
    Metric("stream_runs", "gauge", "Runs that have a reader."),
    Metric("stream_ring_bytes", "gauge", "Bytes of encoded events kept for the readers."),
    Metric("stream_outbox_events", "gauge", "Events accepted that Redis has not confirmed."),
    Metric("stream_journal_events", "gauge", "Those of them that wait for Redis to come back."),
    Metric("stream_journal_bytes", "gauge", "The bytes of their data."),
    Metric("stream_journal_limit", "gauge", "How many of them there may be."),
    Metric("stream_journal_refused", "total", "Events that waited, and that Redis then refused."),
)

BY_WORD = {metric.word: metric for metric in METRICS}


def markdown() -> str:
    """Return the table of all metrics, for the documentation."""
    lines = ["| metric | type | labels | |", "|---|---|---|---|"]
    for metric in METRICS:
        kind = "counter" if metric.kind == "total" else metric.kind
        labels = "; ".join(_described(metric, place) for place in range(len(metric.labels)))
        lines.append(f"| `{metric.name}` | {kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


def _described(metric: Metric, place: int) -> str:
    values = dict.fromkeys(each[place] for each in metric.values if each[place])
    told = ", ".join(f"`{value}`" for value in values)
    return f"`{metric.labels[place]}`: {told}" if told else f"`{metric.labels[place]}`"
