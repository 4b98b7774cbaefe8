"""What the OAuth stores raise beside configuration errors, and its form for each framework.

Nothing here decides when to raise. A framework's own 503 is made only where that framework is
loaded already.
"""

from __future__ import annotations

import sys
from functools import cache

from starlette.exceptions import HTTPException

from holdfast.errors import OAuthStateUnavailable


class HTTPOAuthStateUnavailable(OAuthStateUnavailable, HTTPException):
    """:class:`OAuthStateUnavailable` as what Starlette and FastAPI answer by 503 themselves."""

    def __init__(self, reason: str) -> None:
        headers = {"Retry-After": str(self.retry_after), "Cache-Control": "no-store"}
        HTTPException.__init__(self, 503, "Service Unavailable", headers)
        self.reason = reason
        self.args = (f"the OAuth state cannot be reached: Redis is unavailable ({reason})",)


def unavailable_for(request: object) -> type[OAuthStateUnavailable]:
    """Return the class that the framework of a WSGI *request* answers by 503 itself."""
    wrappers = sys.modules.get("werkzeug.wrappers")
    if wrappers is not None and isinstance(request, wrappers.Request):
        return _for_werkzeug()
    return OAuthStateUnavailable


@cache
def _for_werkzeug() -> type[OAuthStateUnavailable]:
    from werkzeug.exceptions import ServiceUnavailable

    # Both have `retry_after`, and werkzeug's may be a date as well.
    class WerkzeugOAuthStateUnavailable(  # type: ignore[misc]
        OAuthStateUnavailable, ServiceUnavailable
    ):
        """:class:`OAuthStateUnavailable` as what Flask answers by 503 itself."""

        def __init__(self, reason: str) -> None:
            ServiceUnavailable.__init__(self, retry_after=OAuthStateUnavailable.retry_after)
            self.reason = reason
            self.args = (f"the OAuth state cannot be reached: Redis is unavailable ({reason})",)

    return WerkzeugOAuthStateUnavailable
