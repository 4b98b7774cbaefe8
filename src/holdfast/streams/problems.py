"""What is answered in place of the thing asked for: ``application/problem+json`` (RFC 9457).

Each has a ``code`` that stays the same over versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.responses import Response

from holdfast.streams.event import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIVATE_HEADERS = {"cache-control": "no-store, no-transform", "referrer-policy": "no-referrer"}
"""What an answer about a run is never without: it may carry a token in its URL."""


@dataclass(frozen=True)
class Problem:
    """One way in which a request fails. It names no token, no host and no other run."""

    status: int
    code: str
    title: str
    retry_after: int | None = None

    def response(self, detail: str | None = None) -> Response:
        """Return the HTTP answer."""
        body: dict[str, object] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "code": self.code,
        }
        if detail:
            body["detail"] = detail
        return Response(to_json(body), self.status, self._headers(), "application/problem+json")

    def _headers(self) -> Mapping[str, str]:
        headers = dict(PRIVATE_HEADERS)
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


INVALID_RUN_ID = Problem(400, "INVALID_RUN_ID", "The run id cannot exist")
INVALID_ID = Problem(400, "INVALID_ID", "Not an event id")
INVALID_LIMIT = Problem(400, "INVALID_LIMIT", "The limit is a whole number from 1 on")
INVALID_WAIT = Problem(400, "INVALID_WAIT", "The wait is a number of seconds, 0 or more")
NO_RUN = Problem(400, "NO_RUN", "Name the runs: ?run=…&run=…")
TOO_MANY_RUNS = Problem(400, "TOO_MANY_RUNS", "One connection carries at most 100 runs")
REPEATED_RUN = Problem(400, "REPEATED_RUN", "A run is named more than once")
TOO_MANY_TOKENS = Problem(400, "TOO_MANY_TOKENS", "One connection takes at most 100 tokens")
INVALID_JSON = Problem(400, "INVALID_JSON", "The body is not JSON in UTF-8")
INVALID_KEY = Problem(400, "INVALID_IDEMPOTENCY_KEY", "Not an idempotency key")
UNAUTHORIZED = Problem(401, "UNAUTHORIZED", "A token is needed, and none that is good was given")
FORBIDDEN = Problem(403, "FORBIDDEN", "Not allowed")
RUN_NOT_YOURS = Problem(403, "RUN_NOT_YOURS", "The run belongs to somebody else")
NOT_FOUND = Problem(404, "NOT_FOUND", "There is nothing at this address")
RUN_NOT_FOUND = Problem(404, "RUN_NOT_FOUND", "There is no such run")
NO_HISTORY = Problem(404, "NO_HISTORY", "The events of this run are passed on and not kept")
METHOD_NOT_ALLOWED = Problem(405, "METHOD_NOT_ALLOWED", "This address does not take that method")
RUN_ENDED = Problem(409, "RUN_ENDED", "The run has ended, and nothing can follow")
RUN_EXPIRED = Problem(410, "RUN_EXPIRED", "The run is over and its events are no longer kept")
BODY_TOO_LARGE = Problem(413, "BODY_TOO_LARGE", "The body is larger than is read")
EVENT_TOO_LARGE = Problem(413, "EVENT_TOO_LARGE", "The data of an event is too large")
NOT_JSON = Problem(415, "UNSUPPORTED_MEDIA_TYPE", "The body has to be application/json")
INVALID_EVENT = Problem(422, "INVALID_EVENT", "Not an event that a run can carry")
KEY_REUSED = Problem(
    422, "IDEMPOTENCY_KEY_REUSED", "The Idempotency-Key is already used, with another body"
)
TOO_MANY_ATTEMPTS = Problem(429, "TOO_MANY_ATTEMPTS", "Too many tokens from here were not good")
ACCESS_FAILED = Problem(500, "ACCESS_FAILED", "Whether this is allowed could not be decided")
CORRUPT = Problem(500, "CORRUPT_DATA", "What is stored of the run cannot be read")
NO_WEBSOCKET = Problem(
    501, "NO_WEBSOCKET", "This server has no WebSockets: read the event stream, or serve by ASGI"
)
UNAVAILABLE = Problem(503, "UNAVAILABLE", "The store cannot be reached now", retry_after=2)

BY_VERDICT = {401: UNAUTHORIZED, 403: FORBIDDEN}
