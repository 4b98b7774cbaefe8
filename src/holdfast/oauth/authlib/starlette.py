"""Authlib's ``OAuth`` for Starlette and FastAPI, on our state store.

What Authlib does stays Authlib's: its methods are called with a request whose ``session`` leads to
our store. Only two things are done around them: noticing the request, and setting the cookie.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from authlib.integrations.starlette_client import (  # type: ignore[import-untyped]
    OAuth as AuthlibOAuth,
)
from authlib.integrations.starlette_client import (
    OAuthError,
    StarletteIntegration,
    StarletteOAuth1App,
    StarletteOAuth2App,
)

from holdfast.oauth.authlib import marks
from holdfast.oauth.authlib.registry import StateRegistry
from holdfast.oauth.binding import new_proof
from holdfast.oauth.record import checked_state, encode, milliseconds
from holdfast.oauth.store import OAuthStateStore

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["OAuth", "OAuthError", "StateIntegration", "StateOAuth1App", "StateOAuth2App"]


class _Login:
    """What Authlib takes for the session of a request, and hands to :class:`StateIntegration`."""

    def __init__(self, request: Request, *, cookie_follows: bool) -> None:
        self.request = request
        self.cookie_follows = cookie_follows

    @property
    def session(self) -> MutableMapping[str, Any] | None:
        # `request.session` raises where the application has none; here it may do without.
        session: MutableMapping[str, Any] | None = self.request.scope.get("session")
        if session is None:
            return None
        return self.request.session


class _Request:
    """A request as it is, but for its session."""

    def __init__(self, request: Request, *, cookie_follows: bool) -> None:
        self._request = request
        self.session = _Login(request, cookie_follows=cookie_follows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)


def _wrapped(request: Any, *, cookie_follows: bool = False) -> _Request:
    if isinstance(request, _Request):
        return request
    return _Request(request, cookie_follows=cookie_follows)


class StateIntegration(StarletteIntegration):  # type: ignore[misc]
    """Where Authlib keeps the data of a login: in ``states``, for ``ttl`` seconds."""

    states: OAuthStateStore
    ttl: float

    async def set_state_data(self, session: Any, state: str, data: Any) -> None:
        """Keep *data* for the callback that brings *state*."""
        encoded, lifetime = encode(data), milliseconds(self.ttl)
        login = session if isinstance(session, _Login) else None
        # An app class of somebody else's hands over a plain session: then that alone is the proof.
        own = session if login is None else login.session
        proof = new_proof() if login is None else self.states.bound(login.request).proof
        await self.states.keep(checked_state(state), self.name, proof, encoded, lifetime)
        if own is None or (login and login.cookie_follows and marks.is_unborn(own)):
            return
        marks.mark(own, self.name, state, proof, time.time(), self.ttl)

    async def get_state_data(self, session: Any, state: str | None) -> dict[str, Any] | None:
        """Return the data of the login, once."""
        login = session if isinstance(session, _Login) else None
        own = session if login is None else login.session
        proofs = self.states.proofs(login.request) if login else []
        noted = marks.marked(own, self.name, state) if own and state else None
        return await self.states.hand_out(state, self.name, [*proofs, noted] if noted else proofs)

    async def clear_state_data(self, session: Any, state: str | None) -> None:
        """Forget the mark in the session; the login itself was handed out for good."""
        own = session.session if isinstance(session, _Login) else session
        if own and state:
            marks.unmark(own, self.name, state, time.time())


class _StateApp:
    """What the app classes do around Authlib's methods of the same names."""

    framework: Any

    async def authorize_redirect(
        self, request: Any, redirect_uri: Any = None, **kwargs: Any
    ) -> Response:
        """See Authlib's; the redirect carries the binding cookie."""
        wrapped = _wrapped(request, cookie_follows=True)
        response: Response = await super().authorize_redirect(  # type: ignore[misc]
            wrapped, redirect_uri, **kwargs
        )
        self.framework.states.set_cookie(request, response)
        return response

    async def save_authorize_data(self, request: Any, **kwargs: Any) -> None:
        """See Authlib's. Put the cookie on your response by ``oauth.states.set_cookie``."""
        await super().save_authorize_data(_wrapped(request), **kwargs)  # type: ignore[misc]

    async def authorize_access_token(self, request: Any, **kwargs: Any) -> Any:
        """See Authlib's."""
        return await super().authorize_access_token(_wrapped(request), **kwargs)  # type: ignore[misc]


class StateOAuth1App(_StateApp, StarletteOAuth1App):  # type: ignore[misc]
    """Authlib's OAuth 1 app, on our state store."""


class StateOAuth2App(_StateApp, StarletteOAuth2App):  # type: ignore[misc]
    """Authlib's OAuth 2 and OpenID Connect app, on our state store."""

    async def logout_redirect(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """See Authlib's; the redirect carries the binding cookie."""
        wrapped = _wrapped(request, cookie_follows=True)
        response: Response = await super().logout_redirect(wrapped, *args, **kwargs)
        self.framework.states.set_cookie(request, response)
        return response

    async def validate_logout_response(self, request: Any) -> Any:
        """See Authlib's."""
        return await super().validate_logout_response(_wrapped(request))


class OAuth(StateRegistry, AuthlibOAuth):  # type: ignore[misc]
    """Authlib's registry of clients, with logins kept in :class:`holdfast.OAuthStateStore`.

    Args:
        config, fetch_token, update_token: as Authlib's.
        cache: accepted and not used: logins are kept in *states*.
        settings: in place of those of the environment.
        states: the store. Default: one made of *settings* and *form_post*.
        ttl: seconds that a login may take. Default 600.
        form_post: providers answer by ``response_mode=form_post``; see the store.

    Raises:
        ConfigurationError: the settings cannot work.
    """

    store_cls = OAuthStateStore
    integration_cls = StateIntegration
    oauth1_client_cls = StateOAuth1App
    oauth2_client_cls = StateOAuth2App
