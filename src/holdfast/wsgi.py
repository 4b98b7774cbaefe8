"""The application of ``HOLDFAST_APP`` for any WSGI server: ``gunicorn holdfast.wsgi:app``.

It is made when a server first asks for ``app``, not when this module is imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from holdfast.wrapping.served import Served

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["app"]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve one request; the first one has the application made."""
    served: Any = sys.modules[__name__].app
    parts: Iterable[bytes] = served(environ, start_response)
    return parts


def _make() -> Any:
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
    return around_wsgi(found)


sys.modules[__name__].__class__ = Served
