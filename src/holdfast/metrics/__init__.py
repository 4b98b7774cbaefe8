"""Metrics for Prometheus (extra ``prometheus``): mount the scrape endpoint, or register them.

The doors only. What there is to measure is in ``table.py``, how it gets there in ``exporter.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import prometheus_client
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'holdfast.metrics needs prometheus-client: pip install "holdfast[prometheus]"',
        name="prometheus_client",
    ) from error

from holdfast.forks import ForkSafeLock
from holdfast.metrics.exporter import Exporter, is_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import CollectorRegistry
    from starlette.types import Receive, Scope, Send

__all__ = ["MetricsApp", "WSGIMetricsApp", "record_metrics"]

_lock = ForkSafeLock()
_exporters: dict[CollectorRegistry, Exporter] = {}


def record_metrics(registry: CollectorRegistry | None = None) -> Callable[[], None]:
    """Begin to measure, into *registry*; the same registry once.

    Args:
        registry: default: that of ``prometheus_client`` itself, which an app may serve already.

    Returns:
        A function that ends it and takes the metrics out of the registry.

    Raises:
        ValueError: the registry has other metrics of these names.
    """
    registry = registry or prometheus_client.REGISTRY
    _exporter(registry)

    def end() -> None:
        with _lock():
            exporter = _exporters.pop(registry, None)
        if exporter is not None:
            exporter.close()

    return end


def _exporter(registry: CollectorRegistry) -> Exporter:
    with _lock():
        exporter = _exporters.get(registry)
        if exporter is None:
            exporter = _exporters[registry] = Exporter(registry)
        return exporter


def _scraped(registry: CollectorRegistry | None) -> tuple[Exporter, CollectorRegistry]:
    """Return what reads this process, and what holds the metrics of all that are to be told."""
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = registry or prometheus_client.REGISTRY
    exporter = _exporter(registry)
    if is_shared():
        registry = prometheus_client.CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return exporter, registry


class MetricsApp:
    """An ASGI app that answers a scrape; making it begins to measure. Mount it anywhere.

    It tells every metric of its registry, those of the app included, to whoever asks: mount it
    where the public does not come. Where ``PROMETHEUS_MULTIPROC_DIR`` is set it tells those of all
    processes.

    Args:
        registry: as for :func:`record_metrics`.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._exporter, scraped = _scraped(registry)
        self._app = prometheus_client.make_asgi_app(scraped)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scrape."""
        self._exporter.read()
        await self._app(scope, receive, send)


class WSGIMetricsApp:
    """:class:`MetricsApp` for WSGI."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._exporter, scraped = _scraped(registry)
        self._app = prometheus_client.make_wsgi_app(scraped)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one scrape."""
        self._exporter.read()
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer
