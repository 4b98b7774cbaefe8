"""A scrape as Prometheus makes it: text in, samples out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from holdfast.metrics.table import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scrape:
    """The samples of one scrape.

    Args:
        text: what was answered.
    """

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    @classmethod
    def at(cls, url: str) -> Scrape:
        """Scrape an endpoint."""
        answer = httpx.get(url, timeout=30)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        return cls(answer.text)

    @classmethod
    def of(cls, registry: CollectorRegistry) -> Scrape:
        """Scrape a registry."""
        return cls(generate_latest(registry).decode())

    def __call__(self, name: str, labels: Mapping[str, str] | None = None, /) -> float:
        """Return the value of one sample of ``holdfast_<name>``."""
        return self._samples[f"holdfast_{name}", frozenset((labels or {}).items())]

    def unknown_labels(self) -> list[str]:
        """Return the samples of ours whose labels the table does not have."""
        known = {
            (metric.name, frozenset(zip(metric.labels, values, strict=True)))
            for metric in METRICS
            for values in metric.values or ((),)
            if metric.word != "info"
        }
        return [
            f"{name} {sorted(labels)}"
            for name, labels in self._samples
            if name.startswith("holdfast_") and name != "holdfast_info"
            if (
                name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum"),
                frozenset((label, value) for label, value in labels if label != "le"),
            )
            not in known
            and not name.endswith("_created")
        ]
