"""The application of ``HOLDFAST_APP`` for any ASGI server: ``uvicorn holdfast.asgi:app``.

It is made when a server first asks for ``app``, not when this module is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    app: ASGIApp

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from holdfast.runtime import runtime
    from holdfast.wrapping.around import around_asgi, bridged, for_asgi
    from holdfast.wrapping.protocol import application_of, protocol_of

    with for_asgi():
        found = application_of(runtime().settings.app)
        made = bridged(found) if protocol_of(found) == "wsgi" else around_asgi(found)
    globals()["app"] = made
    return made
