"""Authlib's ``OAuth`` for Flask, on our state store.

What Authlib does stays Authlib's; our part is where its data of a login is kept, and the cookie on
the redirect. The request and the session are those of Flask's context.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from authlib.integrations.flask_client import (  # type: ignore[import-untyped]
    FlaskIntegration,
    FlaskOAuth1App,
    FlaskOAuth2App,
    OAuthError,
    token_update,
)
from authlib.integrations.flask_client import OAuth as AuthlibOAuth
from authlib.integrations.flask_client.apps import request  # type: ignore[import-untyped]

from holdfast.oauth.authlib import marks
from holdfast.oauth.authlib.registry import StateRegistry
from holdfast.oauth.record import checked_state, encode, milliseconds
from holdfast.oauth.store import SyncOAuthStateStore

__all__ = [
    "OAuth",
    "OAuthError",
    "StateIntegration",
    "StateOAuth1App",
    "StateOAuth2App",
    "token_update",
]


_COOKIE_FOLLOWS = "holdfast.oauth.cookie_follows"


class StateIntegration(FlaskIntegration):  # type: ignore[misc]
    """Where Authlib keeps the data of a login: in ``states``, for ``ttl`` seconds."""

    states: SyncOAuthStateStore
    ttl: float

    def set_state_data(self, session: Any, state: str, data: Any) -> None:
        """Keep *data* for the callback that brings *state*."""
        encoded, lifetime = encode(data), milliseconds(self.ttl)
        proof = self.states.bound(request).proof
        self.states.keep(request, checked_state(state), self.name, proof, encoded, lifetime)
        if request.environ.get(_COOKIE_FOLLOWS) and marks.is_unborn(session):
            return
        # Without a secret key Flask's session cannot be written to: then the cookie is the proof.
        with contextlib.suppress(RuntimeError):
            marks.mark(session, self.name, state, proof, time.time(), self.ttl)

    def get_state_data(self, session: Any, state: str | None) -> dict[str, Any] | None:
        """Return the data of the login, once."""
        proofs = self.states.proofs(request)
        noted = marks.marked(session, self.name, state) if state else None
        proofs = [*proofs, noted] if noted else proofs
        return self.states.hand_out(request, state, self.name, proofs)

    def clear_state_data(self, session: Any, state: str | None) -> None:
        """Forget the mark in the session; the login itself was handed out for good."""
        if session and state:
            marks.unmark(session, self.name, state, time.time())


class _StateApp:
    """What the app classes do around Authlib's methods of the same names."""

    framework: Any

    def authorize_redirect(self, redirect_uri: Any = None, **kwargs: Any) -> Any:
        """See Authlib's; the redirect carries the binding cookie."""
        request.environ[_COOKIE_FOLLOWS] = True
        response = super().authorize_redirect(redirect_uri, **kwargs)  # type: ignore[misc]
        self.framework.states.set_cookie(request, response)
        return response


class StateOAuth1App(_StateApp, FlaskOAuth1App):  # type: ignore[misc]
    """Authlib's OAuth 1 app, on our state store."""


class StateOAuth2App(_StateApp, FlaskOAuth2App):  # type: ignore[misc]
    """Authlib's OAuth 2 and OpenID Connect app, on our state store."""

    def logout_redirect(self, *args: Any, **kwargs: Any) -> Any:
        """See Authlib's; the redirect carries the binding cookie."""
        request.environ[_COOKIE_FOLLOWS] = True
        response = super().logout_redirect(*args, **kwargs)
        self.framework.states.set_cookie(request, response)
        return response


class OAuth(StateRegistry, AuthlibOAuth):  # type: ignore[misc]
    """Authlib's registry of clients, with logins kept in :class:`holdfast.SyncOAuthStateStore`.

    Args:
        app, fetch_token, update_token: as Authlib's; ``init_app`` too.
        cache: accepted and not used: logins are kept in *states*.
        settings: in place of those of the environment.
        states: the store. Default: one made of *settings* and *form_post*.
        ttl: seconds that a login may take. Default 600.
        form_post: providers answer by ``response_mode=form_post``; see the store.

    Raises:
        ConfigurationError: the settings cannot work.
    """

    store_cls = SyncOAuthStateStore
    integration_cls = StateIntegration
    oauth1_client_cls = StateOAuth1App
    oauth2_client_cls = StateOAuth2App
