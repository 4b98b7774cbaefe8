"""The state of OAuth logins: issued before the redirect, consumed by the callback, once.

Here only the order of things, for requests of ASGI and of WSGI. What is kept is in ``record.py``,
where in ``states.py``, and how a browser is recognised in ``binding.py``.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.errors import RedisUnavailable
from holdfast.oauth.binding import Binding, Bound
from holdfast.oauth.errors import HTTPOAuthStateUnavailable, unavailable_for
from holdfast.oauth.record import (
    DEFAULT_TTL,
    Refusal,
    checked_state,
    decode,
    encode,
    key_of,
    milliseconds,
    new_state,
    possible,
)
from holdfast.oauth.states import States
from holdfast.runtime import runtime
from holdfast.sessions.doors.headers import MORE_HEADERS
from holdfast.sessions.session import ENVIRON_KEY, Session

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from holdfast.settings import Settings

logger = logging.getLogger("holdfast.oauth")

_SCOPE_KEY = "holdfast.oauth"
_STATE_TAKEN = "this state is pending in another browser: let issue() make one"


class _Desk:
    """What both stores share: the configuration, the cookie, and what is noted on a request."""

    def __init__(self, settings: Settings | None = None, *, form_post: bool = False) -> None:
        self._runtime = runtime(settings)
        self.binding = Binding(self._runtime.settings, form_post=form_post)
        self.states = States(self._runtime)
        self._cookie_missed = False

    def __repr__(self) -> str:
        where = "memory" if self._runtime.settings.redis_url is None else "Redis"
        return f"<{type(self).__name__} in {where}>"

    def bound(self, request: Any) -> Bound:
        """Return the browser of *request*; one that has no cookie yet is to be sent one."""
        place = _place(request)
        noted: dict[int, Bound] = place.setdefault(_SCOPE_KEY, {})
        if id(self.binding) not in noted:
            noted[id(self.binding)] = self.binding.bind(_cookie_lines(place))
        return noted[id(self.binding)]

    def _announce(self, request: Any) -> None:
        """Have whoever is around send the cookie, unless the application does."""
        place = _place(request)
        session = place.get(ENVIRON_KEY if "wsgi.version" in place else "session")
        if isinstance(session, Session):
            session.mark_accessed()
            # Not *request*: Flask's and Quart's name none by the time that the middleware asks.
            place.setdefault(MORE_HEADERS, []).append(partial(self.cookie_headers, place))
        elif _is_flasks(place):
            sys.modules["flask"].after_this_request(partial(self._dress, place))

    def _dress(self, place: MutableMapping[str, Any], response: Any) -> Any:
        self.set_cookie(place, response)
        return response

    def proofs(self, request: Any) -> list[str]:
        """Return the proofs of the browser of *request*; none where it has no cookie of ours."""
        return self.binding.proofs(_cookie_lines(_place(request)))

    def cookie_headers(self, request: Any) -> list[tuple[str, str]]:
        """Return the headers that the response to *request* needs, for any framework's response.

        Empty where nothing was issued, or where they were asked for before. ``Cache-Control`` is
        among them: a redirect that is served from a cache would give two browsers one state.
        """
        noted = _place(request).get(_SCOPE_KEY, {}).get(id(self.binding))
        if noted is None or not noted.headers:
            return []
        cookies = [("Set-Cookie", header) for header in noted.headers]
        noted.headers.clear()
        return [*cookies, ("Cache-Control", "no-store")]

    def set_cookie(self, request: Any, response: Any) -> None:
        """Put the binding cookie on *response*, where ``issue`` has noted one on *request*.

        Args:
            request: the one that ``issue`` was given.
            response: any object with ``headers`` that are Starlette's, werkzeug's or a list.
        """
        for name, value in self.cookie_headers(request):
            _add(response.headers, name, value)

    def _possible(self, state: object, proofs: Sequence[str]) -> bool:
        if not possible(state):
            return False
        if not proofs and not self._cookie_missed:
            self._cookie_missed = True
            logger.warning(
                "An OAuth callback came without the cookie that binds it to a browser. If every "
                "login fails so: put set_cookie(request, response) on the answer that redirects to "
                "the provider, and use form_post=True where the provider answers by POST."
            )
        return bool(proofs)

    def _told(self, found: bytes | Refusal) -> dict[str, Any] | None:
        if isinstance(found, bytes):
            return decode(found)
        if found is Refusal.FOREIGN:
            logger.warning("An OAuth callback brought the state of another browser: refused.")
        return None


class OAuthStateStore(_Desk):
    """The state of OAuth logins, for ASGI: bound to the browser, good once, and for a short time.

    With Redis configured it is kept there, for all processes; else in the memory of this one. It
    needs no middleware and no session; where holdfast's session middleware is around, that sends
    the cookie, as Flask does, and the call of ``set_cookie`` may be left out::

        state = await states.issue(request, {"verifier": verifier, "nonce": nonce})
        response = RedirectResponse(provider_url(state))
        states.set_cookie(request, response)
        ...
        login = await states.consume(request, request.query_params.get("state"))

    Args:
        settings: default: those of the environment.
        form_post: providers answer by a POST from their page (``response_mode=form_post``): the
            cookie is then ``SameSite=None; Secure``, which needs HTTPS (or ``localhost``).

    Raises:
        ConfigurationError: the settings cannot work, or memory is to be shared by several workers.
    """

    async def issue(
        self,
        request: Any,
        data: dict[str, Any],
        *,
        ttl: float = DEFAULT_TTL,
        state: str | None = None,
        provider: str = "",
    ) -> str:
        """Keep *data* for the callback, and return the ``state`` to send to the provider.

        Args:
            request: a Starlette request or an ASGI scope. Call `set_cookie` on its response.
            data: what the callback needs: PKCE verifier, nonce, where to go then. JSON, 16 KiB.
            ttl: seconds until it is worthless. Default 600, at most 86400.
            state: in place of a random one, where another library makes it.
            provider: whose answer is expected; the same must be given to `consume`.

        Raises:
            OAuthStateUnavailable: Redis is away; it is also Starlette's 503.
            TypeError: *data* is not what JSON can carry.
            ValueError: *data* is too large, or *ttl* or *state* cannot be.
        """
        encoded, lifetime = encode(data), milliseconds(ttl)
        chosen = new_state() if state is None else checked_state(state)
        proof = self.bound(request).proof
        await self.keep(chosen, provider, proof, encoded, lifetime)
        self._announce(request)
        return chosen

    async def consume(
        self, request: Any, state: str | None, *, provider: str = ""
    ) -> dict[str, Any] | None:
        """Return the data of the login that *state* names, and forget it.

        ``None``: never issued, used, expired, another provider's, or begun by another browser;
        in the last case it stays good for the browser that began it. Of two calls at once one
        gets the data.

        Args:
            request: the callback: a Starlette request or an ASGI scope.
            state: the parameter of that name, as it came.
            provider: as given to `issue`.

        Raises:
            OAuthStateUnavailable: Redis is away; it is also Starlette's 503.
        """
        return await self.hand_out(state, provider, self.proofs(request))

    async def keep(
        self, state: str, provider: str, proof: str, data: bytes, lifetime_ms: int
    ) -> None:
        """Keep *data* for a browser that is known by *proof*; what `issue` and adapters do."""
        try:
            kept = await self.states.put(key_of(state, provider), proof, lifetime_ms, data)
        except RedisUnavailable as error:
            raise HTTPOAuthStateUnavailable(error.reason) from error
        if not kept:
            raise ValueError(_STATE_TAKEN)

    async def hand_out(
        self, state: str | None, provider: str, proofs: Sequence[str]
    ) -> dict[str, Any] | None:
        """Return the data to a browser that has *proofs*; what `consume` and adapters do."""
        if state is None or not self._possible(state, proofs):
            return None
        try:
            return self._told(await self.states.take(key_of(state, provider), proofs))
        except RedisUnavailable as error:
            raise HTTPOAuthStateUnavailable(error.reason) from error


class SyncOAuthStateStore(_Desk):
    """:class:`OAuthStateStore` for WSGI: the same calls, without ``await``.

    Requests are Flask's, any other with an ``environ``, or a WSGI environ.

    Args:
        settings: default: those of the environment.
        form_post: as for :class:`OAuthStateStore`.

    Raises:
        ConfigurationError: the settings cannot work, or memory is to be shared by several workers.
    """

    def issue(
        self,
        request: Any,
        data: dict[str, Any],
        *,
        ttl: float = DEFAULT_TTL,
        state: str | None = None,
        provider: str = "",
    ) -> str:
        """See :meth:`OAuthStateStore.issue`; for Flask the error is also werkzeug's 503.

        Raises:
            ConfigurationError: the server says that it has several processes, and Redis is not
                configured.
        """
        encoded, lifetime = encode(data), milliseconds(ttl)
        chosen = new_state() if state is None else checked_state(state)
        proof = self.bound(request).proof
        self.keep(request, chosen, provider, proof, encoded, lifetime)
        self._announce(request)
        return chosen

    def consume(
        self, request: Any, state: str | None, *, provider: str = ""
    ) -> dict[str, Any] | None:
        """See :meth:`OAuthStateStore.consume`."""
        return self.hand_out(request, state, provider, self.proofs(request))

    def keep(
        self, request: Any, state: str, provider: str, proof: str, data: bytes, lifetime_ms: int
    ) -> None:
        """Keep *data* for a browser that is known by *proof*; what `issue` and adapters do."""
        settings = self._runtime.settings
        if settings.redis_url is None and _place(request).get("wsgi.multiprocess"):
            settings.check_workers(2)
        try:
            kept = self.states.put_sync(key_of(state, provider), proof, lifetime_ms, data)
        except RedisUnavailable as error:
            raise unavailable_for(request)(error.reason) from error
        if not kept:
            raise ValueError(_STATE_TAKEN)

    def hand_out(
        self, request: Any, state: str | None, provider: str, proofs: Sequence[str]
    ) -> dict[str, Any] | None:
        """Return the data to a browser that has *proofs*; what `consume` and adapters do."""
        if state is None or not self._possible(state, proofs):
            return None
        try:
            return self._told(self.states.take_sync(key_of(state, provider), proofs))
        except RedisUnavailable as error:
            raise unavailable_for(request)(error.reason) from error


def _place(request: Any) -> MutableMapping[str, Any]:
    """The ASGI scope or WSGI environ of *request*: it lives as long, and everybody has the same."""
    for name in ("scope", "environ"):
        place = getattr(request, name, None)
        if isinstance(place, dict):
            return place
    if isinstance(request, dict):
        return request
    raise TypeError(f"a request, an ASGI scope or a WSGI environ, not {type(request).__name__}")


def _is_flasks(environ: MutableMapping[str, Any]) -> bool:
    """Whether Flask, where it is in use, serves this very request."""
    flask = sys.modules.get("flask")
    return bool(flask and flask.has_request_context() and flask.request.environ is environ)


def _cookie_lines(place: MutableMapping[str, Any]) -> list[str]:
    if "HTTP_COOKIE" in place:
        return [place["HTTP_COOKIE"]]
    headers = place.get("headers", ())
    # HTTP/2 may split Cookie into several lines (RFC 9113, section 8.2.3).
    return [line.decode("latin-1") for name, line in headers if name.lower() == b"cookie"]


def _add(headers: Any, name: str, value: str) -> None:
    if isinstance(headers, list):
        if name == "Set-Cookie" or name.lower() not in (known.lower() for known, _ in headers):
            headers.append((name, value))
    elif name != "Set-Cookie":
        headers.setdefault(name, value)
    elif hasattr(headers, "add"):
        headers.add(name, value)  # werkzeug's
    else:
        headers.append(name, value)  # Starlette's
