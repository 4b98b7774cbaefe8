"""One middleware as configured, and whom it lets in: from a connection's cookie to its session.

Arguments and settings are checked and put together here, once; then the cookies of each connection
are judged, and the session that they name is asked for. Nothing here sends anything.
"""

from __future__ import annotations

import enum
import logging
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from holdfast import signals
from holdfast.errors import ConfigurationError
from holdfast.runtime import runtime
from holdfast.sessions.choice import default_store
from holdfast.sessions.cookie import (
    CookieAttributes,
    CookieSigner,
    NoCredential,
    Presented,
    candidates,
)
from holdfast.sessions.events import SessionRefused, announcer
from holdfast.sessions.imports.importer import importer_of
from holdfast.sessions.lifecycle import DEFAULT_LIFETIME, Terms
from holdfast.sessions.request import observed
from holdfast.sessions.request.exchange import Exchange, Setup
from holdfast.sessions.session import Session
from holdfast.sessions.stores.encryption import encrypted
from holdfast.sessions.stores.sync import waiting_in_place
from holdfast.sessions.sync_session import SyncSession
from holdfast.sessions.tidings import Tidings
from holdfast.sessions.users import user_index
from holdfast.startup import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

    from holdfast.errors import SessionUnavailable
    from holdfast.runtime import Runtime
    from holdfast.sessions.cookie import CookieAnswer
    from holdfast.sessions.store import SessionStore
    from holdfast.settings import Settings

logger = logging.getLogger("holdfast.sessions")


class Unset(enum.Enum):
    """What an argument is that was not given."""

    UNSET = enum.auto()

    def __repr__(self) -> str:
        return "<from the settings>"


UNSET = Unset.UNSET


class Door:
    """The configuration of one middleware, checked.

    Args:
        settings: in place of those of the environment.
        given: of them, what arguments replace.
        max_age: as the middleware's argument.
        store: in place of the default one.
        unavailable: raised to handlers, as their framework's own 503.
        session_class: of what handlers get. Those of a :class:`SyncSession` cannot await, so that
            the store waits in their threads.

    Raises:
        ConfigurationError: it cannot work.
    """

    def __init__(
        self,
        settings: Settings | None,
        given: dict[str, Any],
        max_age: int | Unset | None,
        store: SessionStore | None,
        unavailable: type[SessionUnavailable],
        session_class: type[Session] = Session,
    ) -> None:
        self.runtime: Runtime = runtime(settings)
        self.required = Requirement(self.runtime)
        own = self.runtime.settings
        if given:
            own = own.override(**given)
        cookie_max_age, lifetime = _lifetimes(own.session_max_age, max_age)
        attributes = CookieAttributes(
            name=own.session_cookie,
            max_age=cookie_max_age,
            path=own.session_path,
            domain=own.session_domain,
            same_site=own.session_same_site,
            https_only=own.session_https_only,
            partitioned=own.session_partitioned,
        )
        self._settings = own
        self.cookie_name = attributes.name.encode("latin-1")
        self.excluded_paths = own.session_exclude
        self.own_store = store is not None
        self._store = default_store(self.runtime) if store is None else encrypted(store, own)
        self.setup = Setup(
            store=_store_for(session_class, self._store),
            signer=CookieSigner(own.signing_keys()),
            attributes=attributes,
            terms=Terms.of(own, lifetime),
            unavailable=unavailable,
            tidings=Tidings(
                announcer(self.runtime, own),
                user_index(self._store),
                address=own.session_index_address,
            ),
            session_class=session_class,
        )
        self.importer = importer_of(own, self.runtime.link, self.setup)

    def beside(
        self, name: str, unavailable: type[SessionUnavailable], session_class: type[Session]
    ) -> Door:
        """Return what lets in whoever this one does, beside the application that gives the cookie.

        It is left to that to give it anew, by its own rules: here no secret is renewed by age, and
        nothing is signed anew for its key.

        Args:
            name: of the cookie.
            unavailable, session_class: as the constructor's.
        """
        made, keys = copy(self), self._settings.signing_keys()
        made.cookie_name = name.encode("latin-1")
        made.setup = replace(
            self.setup,
            store=_store_for(session_class, self._store),
            signer=CookieSigner(keys, anew=False),
            attributes=replace(self.setup.attributes, name=name),
            terms=replace(self.setup.terms, rotate_after=0),
            unavailable=unavailable,
            session_class=session_class,
        )
        made.importer = importer_of(self._settings, self.runtime.link, made.setup)
        return made

    async def open(self, scope: Scope, cookie_name: bytes | None = None) -> Exchange:
        """Return the session of a connection, loaded; *cookie_name* in place of the settings'."""
        setup, headers = self.setup, scope["headers"]
        if self.excluded_paths and self.excludes(scope):
            return Exchange(setup, NoCredential.NO_COOKIE, excluded=True)
        answer = self.answer_of(headers, cookie_name or self.cookie_name)
        if (
            self.importer is not None
            and isinstance(answer, NoCredential)
            and answer is not NoCredential.AMBIGUOUS
        ):
            opened = await self.importer.open(headers, scope)
            if opened is not None:
                return opened
        if answer is NoCredential.INVALID:
            setup.tidings.tell(SessionRefused(id_hash=None, reason="forged cookie"))
        exchange = Exchange(setup, answer)
        if isinstance(answer, Presented):
            loading = exchange.load(answer)
            await (observed.load(exchange, loading) if signals.observers else loading)
        return exchange

    def answer_of(self, headers: Iterable[tuple[bytes, bytes]], cookie_name: bytes) -> CookieAnswer:
        """Return what the cookies of that name say; of two that we signed, the log tells."""
        answer = self.setup.signer.choose(candidates(headers, cookie_name))
        if answer is NoCredential.AMBIGUOUS:
            logger.warning(
                "a request came with two different session cookies: none is believed. Where it is "
                "because of two applications, or of another path or domain, rename one of them"
            )
            self.setup.tidings.tell(SessionRefused(id_hash=None, reason="two cookies"))
        return answer

    def excludes(self, scope: Scope) -> bool:
        """Whether the path is below one of ``SESSION_EXCLUDE``, by whole segments."""
        path, root = scope["path"], scope.get("root_path", "")
        if root and (path == root or path.startswith(root + "/")):
            path = path[len(root) :]
        return any(
            path == prefix or path.startswith(prefix.rstrip("/") + "/")
            for prefix in self.excluded_paths
        )


def _store_for(session_class: type[Session], store: SessionStore) -> SessionStore:
    return waiting_in_place(store) if issubclass(session_class, SyncSession) else store


def given_of(secret_key: Any, **cookie: Any) -> dict[str, Any]:
    """Return the settings that a middleware's arguments replace.

    Args:
        secret_key: one key or several, or ``UNSET``.
        cookie: by the names of the settings without their ``session_``; ``UNSET`` replaces nothing.
    """
    arguments = {f"session_{name}": value for name, value in cookie.items()}
    arguments["secret_key"] = _plain_keys(secret_key)
    return {name: value for name, value in arguments.items() if value is not UNSET}


def _plain_keys(given: Any) -> Any:
    """Return what was given as keys, in the form that the settings take."""
    # Starlette's own Secret shows its value by str() alone; pydantic's must stay as it is.
    if given is UNSET or isinstance(given, str) or hasattr(given, "get_secret_value"):
        return given
    if isinstance(given, (list, tuple)):
        return tuple(_plain_keys(each) for each in given)
    return str(given)


def _lifetimes(setting: int, argument: int | Unset | None) -> tuple[int | None, float]:
    """Return the cookie's Max-Age and the server's lifetime, in seconds."""
    if argument is UNSET:
        return (setting, setting) if setting else (None, DEFAULT_LIFETIME)
    if argument is None:
        return None, DEFAULT_LIFETIME
    if isinstance(argument, bool) or not isinstance(argument, int):
        raise ConfigurationError(f"max_age must be whole seconds or None, not {argument!r}")
    return argument, argument
