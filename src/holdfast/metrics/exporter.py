"""From what the process says of itself to metrics of prometheus-client, and nothing else.

What happens is counted when it does; what there is, is read when somebody scrapes. Where several
processes share one directory of metrics (``PROMETHEUS_MULTIPROC_DIR``, as under gunicorn), whoever
is scraped cannot read the others: there each process reads itself every few seconds.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any, Literal

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client import values as values_module

import holdfast
from holdfast import signals
from holdfast.forks import watch_forks
from holdfast.metrics.table import BUCKETS, BY_WORD, METRICS, OTHER, Metric
from holdfast.sessions.events import on_session_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import CollectorRegistry

    from holdfast.sessions.events import SessionEvent
    from holdfast.signals import Operation, Readable, Reading

log = logging.getLogger("holdfast")

INTERVAL = 5.0
"""Seconds between two readings where several processes share their metrics."""


class Exporter:
    """Keeps the metrics of this process in a registry.

    Args:
        registry: where they are put.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        # What was read of each thing before: of a total only the difference is counted.
        self._totals: weakref.WeakKeyDictionary[Readable, dict[str, float]]
        self._stopped = threading.Event()
        # First in the registry, so that every scrape reads before it writes.
        registry.register(self)
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        try:
            for metric in METRICS:
                self._made[metric.word] = self._make(metric)
        except ValueError:
            self._leave()
            raise
        # Each with all its labels at 0 from the start: a rate needs a beginning.
        self._children = {
            (metric.word, labels): self._child(metric.word, labels)
            for metric in METRICS
            for labels in metric.values or ((),)
            if metric.word != "info"
        }
        self._child("info", (holdfast.__version__,)).set(1)
        self.forked()
        watch_forks(self)
        self._enders = (signals.observe(self), on_session_event(self._on_session_event))

    def forked(self) -> None:
        """Begin, also in a forked child: it has read nothing, and has threads of its own."""
        self._lock = threading.Lock()
        self._totals = weakref.WeakKeyDictionary()
        if is_shared() and not self._stopped.is_set():
            name = "holdfast-metrics"
            threading.Thread(target=self._read_on, name=name, daemon=True).start()

    def close(self) -> None:
        """Measure no more, and leave the registry."""
        self._stopped.set()
        for end in self._enders:
            end()
        self._leave()

    def _leave(self) -> None:
        for each in [self, *self._made.values()]:
            self._registry.unregister(each)

    # -- what happens

    def count(self, what: str, labels: tuple[str, ...], by: float) -> None:
        """See :class:`holdfast.signals.Observer`."""
        self._labelled(what, labels).inc(by)

    def begin(self, operation: Operation) -> Callable[[], None] | None:
        """See :class:`holdfast.signals.Observer`."""
        if operation.name not in BY_WORD:
            return None

        def end() -> None:
            self._labelled(operation.name, (operation.outcome,)).observe(operation.seconds)

        return end

    def _labelled(self, word: str, labels: tuple[str, ...]) -> Any:
        """Return the metric with *labels*, or with those that stand for all the table lacks."""
        child = self._children.get((word, labels))
        return child or self._child(word, (OTHER,) * len(labels))

    def _on_session_event(self, event: SessionEvent) -> None:
        reason = str(getattr(event, "reason", "")).replace(" ", "_")
        self.count("session_events", (event.name, reason), 1)

    # -- what there is

    def collect(self) -> Iterator[prometheus_client.Metric]:
        """Read everything, when the registry is scraped; what was read is in the others."""
        self.read()
        return iter(())

    def describe(self) -> Iterable[prometheus_client.Metric]:
        """Return nothing: this has no metric of its own."""
        return ()

    def read(self) -> None:
        """Bring gauges and totals to what is now."""
        gauges = {key: 0.0 for key in self._children if BY_WORD[key[0]].kind == "gauge"}
        with self._lock:
            for thing in signals.everything():
                for reading in thing.readings():
                    key = (reading.name, reading.labels)
                    if key in gauges:
                        gauges[key] += reading.value
                    else:
                        self._count_difference(thing, reading)
            for key, value in gauges.items():
                self._children[key].set(value)

    def _count_difference(self, thing: Readable, reading: Reading) -> None:
        before = self._totals.setdefault(thing, {})
        grown = reading.value - before.get(reading.name, 0.0)
        before[reading.name] = reading.value
        if grown > 0:
            self.count(reading.name, reading.labels, grown)

    def _read_on(self) -> None:
        while not self._stopped.wait(INTERVAL):
            try:
                self.read()
            except Exception:  # the directory may be gone, or its disk full
                log.exception("the metrics of this process could not be written")

    # -- the metrics

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        labels, registry = metric.labels, self._registry
        if metric.kind == "histogram":
            return Histogram(metric.name, metric.help, labels, registry=registry, buckets=BUCKETS)
        if metric.kind == "gauge":
            # Of processes that have ended nothing is there any more.
            mode: Literal["max", "livesum"] = "max" if metric.word == "info" else "livesum"
            return Gauge(
                metric.name, metric.help, labels, registry=registry, multiprocess_mode=mode
            )
        return Counter(metric.name, metric.help, labels, registry=registry)

    def _child(self, word: str, labels: tuple[str, ...]) -> Any:
        made = self._made[word]
        return made.labels(*labels) if labels else made


def is_shared() -> bool:
    """Whether the metrics of several processes are kept in one directory."""
    return values_module.ValueClass is not values_module.MutexValue
