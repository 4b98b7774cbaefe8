"""The application of ``HOLDFAST_APP`` for any ASGI server: ``uvicorn holdfast.asgi:app``.

It is made when a server first asks for ``app``, not when this module is imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from holdfast.wrapping.served import Served

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["app"]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one connection; the first one has the application made."""
    from holdfast.startup import kept_or_raised

    served: Any = kept_or_raised(lambda: sys.modules[__name__].app)
    await served(scope, receive, send)


def _make() -> Any:
    from holdfast.runtime import runtime
    from holdfast.wrapping.around import around_asgi, bridged, for_asgi
    from holdfast.wrapping.protocol import application_of, protocol_of

    with for_asgi():
        found = application_of(runtime().settings.app)
        return bridged(found) if protocol_of(found) == "wsgi" else around_asgi(found)


sys.modules[__name__].__class__ = Served
