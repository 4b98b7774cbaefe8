"""What the session interfaces of Flask and Quart share: configuration, saving, the cookie.

The two frameworks read the same configuration and set cookies alike; they differ in who awaits.
The work here is written once, awaited by Quart and driven to its end by Flask.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from werkzeug.exceptions import ServiceUnavailable

from holdfast.errors import CorruptData, SessionError, SessionUnavailable
from holdfast.frameworks.tagged import PERMANENT, is_still_good
from holdfast.runtime import runtime
from holdfast.sessions.cookie import Presented
from holdfast.sessions.doors.conversation import UNREACHABLE
from holdfast.sessions.doors.door import UNSET, Door, Unset
from holdfast.sessions.lifecycle import LONGEST_LIFETIME, Header
from holdfast.sessions.request.commit import apply, planned
from holdfast.sessions.sync_session import SyncSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug.wrappers import Response

    from holdfast.frameworks.tagged import TaggedSession
    from holdfast.sessions.request.exchange import Exchange
    from holdfast.sessions.session import Session
    from holdfast.sessions.store import SessionStore
    from holdfast.settings import Settings

_T = TypeVar("_T")

logger = logging.getLogger("holdfast.sessions")

#: By our setting, the framework's.
COOKIE_SETTINGS = {
    "session_cookie": "SESSION_COOKIE_NAME",
    "session_domain": "SESSION_COOKIE_DOMAIN",
    "session_path": "SESSION_COOKIE_PATH",
    "session_same_site": "SESSION_COOKIE_SAMESITE",
    "session_https_only": "SESSION_COOKIE_SECURE",
    "session_partitioned": "SESSION_COOKIE_PARTITIONED",
}
_READ = (
    *COOKIE_SETTINGS.values(),
    "APPLICATION_ROOT",
    "PERMANENT_SESSION_LIFETIME",
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
)


def held_by(proxy: Any, kind: type[_T], interface: str) -> _T:
    """Return the session behind *proxy*, the framework's ``session``, with its type.

    Raises:
        SessionError: it is no *kind*: the application's session interface is not *interface*.
        RuntimeError: there is no request.
    """
    session = proxy._get_current_object()  # noqa: SLF001 - as its documentation says
    if not isinstance(session, kind):
        raise SessionError(f"there is no session of holdfast's here: use {interface}")
    return session


class HTTPSessionUnavailable(SessionUnavailable, ServiceUnavailable):  # type: ignore[misc]
    """:class:`SessionUnavailable` as what Flask and Quart answer by 503 by themselves."""

    def __init__(self, message: str = "the session is unavailable", retry_after: int = 2) -> None:
        # What its page says is Werkzeug's; the message is for the log.
        ServiceUnavailable.__init__(self, retry_after=retry_after)
        Exception.__init__(self, message)

    def __str__(self) -> str:
        return str(self.args[0])


class PalletsInterface:
    """What both session interfaces are beside their framework's base class.

    Args:
        settings: in place of those of the environment.
        store: in place of what ``HOLDFAST_SESSION_STORE`` names.
        key_needed: where no secret key is set, say so at the first write, as the framework does;
            else, without Redis, sign with one that this process makes up.
    """

    held_class: type[Session] = SyncSession

    def __init__(
        self,
        settings: Settings | None = None,
        store: SessionStore | None = None,
        *,
        key_needed: bool = True,
    ) -> None:
        self._settings = settings
        self._store = store
        self._key_needed = key_needed
        self._doors: WeakKeyDictionary[Any, tuple[tuple[Any, ...], Door]] = WeakKeyDictionary()

    # --- configuration --------------------------------------------------------------------------

    def door(self, app: Any) -> Door:
        """Return what *app*, as it is configured now, lets in.

        Raises:
            ConfigurationError: the settings cannot work.
        """
        config = tuple(map(app.config.get, _READ))
        known = self._doors.get(app)
        if known is not None and known[0] == config:
            return known[1]
        made = self._make_door(app)
        self._doors[app] = config, made
        return made

    def _make_door(self, app: Any) -> Door:
        settings = runtime(self._settings).settings
        for line in clashes(settings, app.config, app.default_config):
            logger.warning("%s", line)
        found = given(settings, app.config)
        permanent = int(app.permanent_session_lifetime.total_seconds())
        lifetime, found["session_idle_timeout"] = lifetimes(settings, permanent)
        return Door(
            self._settings,
            found,
            lifetime,
            self._store,
            HTTPSessionUnavailable,
            self.held_class,
        )

    def has_key(self, app: Any) -> bool:
        """Whether cookies can be signed for *app*."""
        if not self._key_needed or app.config.get("SECRET_KEY"):
            return True
        return bool(runtime(self._settings).settings.secret_key)

    def counts_each_request(self, door: Door) -> bool:
        """Whether a request that does not look at its session has to be noted all the same."""
        own = door.runtime.settings
        return own.session_idle_timeout > 0 or own.session_rotate_after > 0

    def get_cookie_name(self, app: Any) -> str:
        """The name of the cookie: ours where a variable names it, else the framework's."""
        return self.door(app).setup.attributes.name

    def get_cookie_domain(self, app: Any) -> str | None:
        """The cookie's ``Domain``, ``None`` for none."""
        return self.door(app).setup.attributes.domain

    def get_cookie_path(self, app: Any) -> str:
        """The cookie's ``Path``."""
        return self.door(app).setup.attributes.path

    def get_cookie_secure(self, app: Any) -> bool:
        """Whether the cookie is for HTTPS alone."""
        return self.door(app).setup.attributes.https_only

    def get_cookie_samesite(self, app: Any) -> str:
        """The cookie's ``SameSite``; ``Lax`` where nobody says."""
        return self.door(app).setup.attributes.same_site.title()

    def get_cookie_partitioned(self, app: Any) -> bool:
        """Whether the cookie is kept for each site that embeds this one."""
        return self.door(app).setup.attributes.partitioned

    # --- saving ---------------------------------------------------------------------------------

    async def store_session(self, app: Any, session: TaggedSession, response: Any) -> None:
        """Bring the store to what the view did, and *response* to what the browser has to know.

        *response* is ``None`` where none can be changed any more.
        """
        if response is not None and session.accessed:
            _vary(response)
        exchange = session.exchange
        if exchange is not None:
            # A response that failed to leave is followed by another.
            exchange.started = response is None
            try:
                session.write_back()
                plan = planned(exchange, failed=session.spoiled)
                await apply(exchange, plan, failed=session.spoiled)
            except SessionUnavailable as error:
                if response is None:
                    raise
                _refuse(response, error)
                return
            except BaseException:
                session.spoiled = True
                raise
            if response is not None:
                await self._tell_browser(app, session, exchange, response)
            exchange.started = True
        session.sent = True

    async def store_rest(self, session: TaggedSession) -> None:
        """Store what was written while the response was streamed; the log says where it cannot."""
        try:
            await self.store_more(session)
        except SessionUnavailable as error:
            # The answer is out, so nobody else is left to be told.
            logger.error("what was written after the response had started is lost: %s", error)  # noqa: TRY400

    async def store_more(self, session: TaggedSession) -> None:
        """Store what was written so far after the response had started."""
        exchange = session.exchange
        if exchange is not None and not session.spoiled:
            exchange.started = True
            session.write_back()
            await apply(exchange)

    async def _tell_browser(
        self, app: Any, session: TaggedSession, exchange: Exchange, response: Response
    ) -> None:
        if exchange.header is Header.REMOVE:
            if isinstance(exchange.answer, Presented):
                response.delete_cookie(**self._cookie(app, response))
        elif exchange.header is Header.SET or await self._is_refreshed(app, session, exchange):
            value = exchange.setup.signer.sign(exchange.held())
            expires = self._expires(app, session, exchange)
            response.set_cookie(value=value, expires=expires, **self._cookie(app, response))

    def _cookie(self: Any, app: Any, response: Response) -> dict[str, Any]:
        _vary(response)
        response.headers.setdefault("Cache-Control", "no-store")
        return {
            "key": self.get_cookie_name(app),
            "domain": self.get_cookie_domain(app),
            "path": self.get_cookie_path(app),
            "secure": self.get_cookie_secure(app),
            "httponly": self.get_cookie_httponly(app),
            "samesite": self.get_cookie_samesite(app),
            "partitioned": self.get_cookie_partitioned(app),
        }

    async def _is_refreshed(
        self: Any, app: Any, session: TaggedSession, exchange: Exchange
    ) -> bool:
        """Whether a browser that has the cookie is to get it once more, by Flask's rules."""
        permanent = dict.get(exchange.session, PERMANENT) is True
        accessed = session.accessed
        wanted = permanent != session.was_permanent or (
            permanent and self.should_set_cookie(app, session)
        )
        session.accessed = accessed
        try:
            return wanted and await is_still_good(exchange)
        except (SessionUnavailable, CorruptData):
            return False

    def _expires(self: Any, app: Any, session: TaggedSession, exchange: Exchange) -> Any:
        accessed = session.accessed
        expires = self.get_expiration_time(app, session)
        session.accessed = accessed
        if expires is None or exchange.record is None:
            return expires
        # A cookie renewed in mid-life ends with its session.
        return min(expires, datetime.fromtimestamp(exchange.record.expires_at, UTC))


def lifetimes(settings: Settings, permanent: int) -> tuple[int | Unset, int]:
    """Return for how many seconds a session lives at most, and how long without a visit.

    Flask's ``PERMANENT_SESSION_LIFETIME`` counts from the last visit. What counts from the creation
    is ours; where nobody sets it, browsers do, which keep no cookie for longer.
    """
    idle = settings.session_idle_timeout if settings.is_set("session_idle_timeout") else permanent
    if settings.is_set("session_max_age"):
        return UNSET, max(idle, 0)
    return (LONGEST_LIFETIME, idle) if idle > 0 else (permanent, 0)


def given(settings: Settings, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the framework's configuration says, by our names, where no variable does."""
    found = {
        name: value
        for name in COOKIE_SETTINGS
        if not settings.is_set(name) and (value := _value(name, config)) is not None
    }
    if not settings.is_set("secret_key") and config.get("SECRET_KEY"):
        keys = (config["SECRET_KEY"], *(config.get("SECRET_KEY_FALLBACKS") or ()))
        found["secret_key"] = tuple(_as_text(key) for key in keys)
    return found


def clashes(
    settings: Settings, config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Return a line for each value of the framework's configuration that a variable overrules."""
    names = {**COOKIE_SETTINGS, "session_idle_timeout": "PERMANENT_SESSION_LIFETIME"}
    return [
        f"{key}={config[key]!r} is not used: {settings.source(name)} says "
        f"{getattr(settings, name)!r}"
        for name, key in names.items()
        if settings.is_set(name)
        and config.get(key) != defaults.get(key)
        and _value(name, config) != getattr(settings, name)
    ]


def _value(name: str, config: Mapping[str, Any]) -> Any:
    value = config.get(COOKIE_SETTINGS.get(name, "PERMANENT_SESSION_LIFETIME"))
    if name == "session_path":
        return value or config.get("APPLICATION_ROOT")
    if isinstance(value, timedelta):
        return int(value.total_seconds())
    if isinstance(value, str):
        # RFC 6265, section 5.2.3: a leading dot of a domain says nothing.
        return {"session_same_site": str.lower, "session_domain": _without_dot}.get(name, str)(
            value
        )
    return value


def _vary(response: Response) -> None:
    # To ask Werkzeug whether a header is there costs an exception where it is not.
    if response.headers.getlist("Vary"):
        response.vary.add("Cookie")
    else:
        # Werkzeug's set of names reads and writes the header anew for each name.
        response.headers.add("Vary", "Cookie")


def _without_dot(domain: str) -> str:
    return domain.removeprefix(".")


def _as_text(key: str | bytes) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _refuse(response: Response, error: SessionUnavailable) -> None:
    """Make *response* the 503 of ours."""
    response.status_code = 503
    response.direct_passthrough = False
    response.set_data(UNREACHABLE)
    for name in ("Content-Encoding", "Content-Range", "ETag", "Last-Modified", "Location"):
        response.headers.pop(name, None)
    response.headers["Content-Type"] = "text/plain; charset=utf-8"
    response.headers["Content-Length"] = str(len(UNREACHABLE))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Retry-After"] = str(error.retry_after)
