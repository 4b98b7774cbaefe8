"""The application of ``HOLDFAST_APP`` for any WSGI server: ``gunicorn holdfast.wsgi:app``.

It is made when a server first asks for ``app``, not when this module is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    app: WSGIApplication

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from holdfast.errors import ConfigurationError
    from holdfast.runtime import runtime
    from holdfast.wrapping.around import around_wsgi
    from holdfast.wrapping.protocol import application_of, protocol_of

    path = runtime().settings.app
    found = application_of(path)
    if protocol_of(found) != "wsgi":
        raise ConfigurationError(
            f"HOLDFAST_APP={path} is an ASGI application: serve holdfast.asgi:app"
        )
    made = around_wsgi(found)
    globals()["app"] = made
    return made
