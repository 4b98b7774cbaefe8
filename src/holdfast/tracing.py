"""Spans for OpenTelemetry (extra ``otel``): what the process says of itself, as its tracer has it.

One span for each load and save of a session, each call that publishes, and each reader of a run
from its joining to its leaving. Without an SDK the API's own tracer records nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from opentelemetry import context, trace
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'holdfast.tracing needs the OpenTelemetry API: pip install "holdfast[otel]"',
        name="opentelemetry",
    ) from error
from opentelemetry.trace import SpanKind, StatusCode

import holdfast
from holdfast import signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.signals import Operation

__all__ = ["record_spans"]

_KINDS = {
    "session_load": ("holdfast.session.load", SpanKind.INTERNAL),
    "session_save": ("holdfast.session.save", SpanKind.INTERNAL),
    "stream_publish": ("holdfast.stream.publish", SpanKind.PRODUCER),
    "stream_deliver": ("holdfast.stream.deliver", SpanKind.CONSUMER),
}

#: Outcomes that are no failure, though they are told by an exception: the run was over, the client
#: left.
_EXPECTED = frozenset({"ended", "cancelled"})


def record_spans(tracer_provider: trace.TracerProvider | None = None) -> Callable[[], None]:
    """Begin to make spans.

    ==========================  ========  =================================================
    span                        kind      attributes
    ==========================  ========  =================================================
    ``holdfast.session.load``   internal  ``holdfast.session.id_hash``, ``holdfast.outcome``
    ``holdfast.session.save``   internal  the same
    ``holdfast.stream.publish`` producer  ``holdfast.run.id``, ``holdfast.events``,
                                          ``holdfast.outcome``
    ``holdfast.stream.deliver`` consumer  the same; from joining to leaving
    ==========================  ========  =================================================

    Args:
        tracer_provider: default: the app's own, as it is now.

    Returns:
        A function that ends it.
    """
    return signals.observe(
        _Spans(trace.get_tracer("holdfast", holdfast.__version__, tracer_provider))
    )


class _Spans:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def count(self, what: str, labels: tuple[str, ...], by: float) -> None:
        """A span is no count."""

    def begin(self, operation: Operation) -> Callable[[], None] | None:
        """See :class:`holdfast.signals.Observer`."""
        if operation.name not in _KINDS:
            return None
        name, kind = _KINDS[operation.name]
        span = self._tracer.start_span(name, kind=kind)
        token = context.attach(trace.set_span_in_context(span)) if operation.current else None

        def end() -> None:
            if token is not None:
                context.detach(token)
            if span.is_recording():
                _describe(span, operation)
            span.end()

        return end


def _describe(span: trace.Span, operation: Operation) -> None:
    span.set_attribute("holdfast.outcome", operation.outcome)
    if operation.session is not None:
        span.set_attribute("holdfast.session.id_hash", operation.session)
    if operation.run_id is not None:
        span.set_attribute("holdfast.run.id", operation.run_id)
        span.set_attribute("holdfast.events", operation.events)
    if operation.error is not None and operation.outcome not in _EXPECTED:
        span.record_exception(operation.error)
        span.set_status(StatusCode.ERROR, type(operation.error).__name__)
