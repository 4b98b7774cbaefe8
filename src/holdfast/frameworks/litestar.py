"""Litestar's own words for a login and a logout, understood where the session is ours.

Nothing of Litestar is imported here, and nothing else of it is adapted: what a handler does to
``request.session`` itself needs no adapter.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast.errors import SessionUnavailable
from holdfast.sessions.session import Session

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class LitestarSessions:
    """A Litestar application whose ``set_session()`` and ``clear_session()`` mean our session.

    Litestar puts what it is given in the place of the session, and leaves the rest to its own
    session middleware. Unseen, a login by the one would be lost, and a logout by the other be none.

    Args:
        app: the application; our session middleware is around this object.

    Raises:
        SessionUnavailable: what was set cannot be taken, because Redis is away.
        TypeError: ``set_session()`` was given what is no mapping.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        ours = scope.get("session")
        if not isinstance(ours, Session):
            await self.app(scope, receive, send)
            return

        refused: Exception | None = None

        async def sending(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                try:
                    _settle(scope, ours)
                except (SessionUnavailable, TypeError) as error:
                    # Raised here, it would be to Litestar a response that broke off.
                    refused = error
            if refused is None:
                await send(message)

        await self.app(scope, receive, sending)
        if refused is not None:
            raise refused
        _settle(scope, ours)


def _settle(scope: Scope, ours: Session) -> None:
    """Do to *ours* what was done to its place in *scope*, and put it back there."""
    now, scope["session"] = scope.get("session"), ours
    if now is ours:
        return
    if now is None or isinstance(now, type | enum.Enum):
        # The mark of clear_session(), by the version.
        ours.invalidate()
    elif isinstance(now, Mapping):
        for key in [key for key in ours if key not in now]:
            del ours[key]
        ours.update(now)
    else:
        raise TypeError(f"a session is a mapping; set_session() was given {type(now).__name__}")
