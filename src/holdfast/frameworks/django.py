"""How Django is configured for our engine: what of its settings is taken, and what cannot be.

Explicit variables of holdfast come first, then Django's settings. No session is here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.core import checks, mail
from django.core.signals import setting_changed

from holdfast.errors import ConfigurationError, SessionUnavailable
from holdfast.sessions.doors.door import UNSET, Door
from holdfast.sessions.doors.wsgi import may_serve
from holdfast.sessions.imports.importer import importer_of
from holdfast.sessions.lifecycle import LONGEST_LIFETIME
from holdfast.sessions.sync_session import SyncSession
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.sessions.cookie import CookieAttributes
    from holdfast.sessions.request.exchange import Setup

logger = logging.getLogger("holdfast.sessions")

_JSON = "django.contrib.sessions.serializers.JSONSerializer"
# Whatever a session is given its cookie by, it is Django that sets it.
_COOKIE = {
    "session_cookie": "SESSION_COOKIE_NAME",
    "session_path": "SESSION_COOKIE_PATH",
    "session_domain": "SESSION_COOKIE_DOMAIN",
    "session_same_site": "SESSION_COOKIE_SAMESITE",
    "session_https_only": "SESSION_COOKIE_SECURE",
}


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine as configured, one for the whole process.

    Attributes:
        door: with the store, the keys and the terms.
        lifetime: of a session from its creation or its last ``cycle_key()``, in seconds.
    """

    door: Door
    lifetime: float

    @property
    def setup(self) -> Setup:
        """What all sessions share."""
        return self.door.setup

    def may_serve(self, meta: Mapping[str, Any]) -> bool:
        """Whether a request with this ``META`` may be served; the log says why not."""
        # Django's test client says of itself that it is several processes.
        alone = {"wsgi.multiprocess": False} if hasattr(mail, "outbox") else {}
        return may_serve(self.door, {**meta, **alone})


@cache
def engine() -> Engine:
    """Return the engine, made at first use from holdfast's variables and Django's settings.

    Raises:
        ConfigurationError: they cannot work.
    """
    own = Settings()
    given = {} if own.is_set("secret_key") else {"secret_key": _keys()}
    door = Door(None, given, UNSET, None, SessionUnavailable, SyncSession)
    door.setup = replace(door.setup, attributes=_attributes(door.setup.attributes, own))
    lifetime = door.setup.terms.lifetime if own.is_set("session_max_age") else LONGEST_LIFETIME
    lasting = replace(door.setup, terms=replace(door.setup.terms, lifetime=lifetime))
    door.importer = importer_of(own.override(**given), door.runtime.link, lasting)
    return Engine(door, lifetime)


def sessions_of_site() -> tuple[Door, str] | None:
    """Return how the site's sessions are configured, and what their cookie is called.

    ``None`` where another engine keeps them.
    """
    if django_settings.SESSION_ENGINE != "holdfast.django":
        return None
    return engine().door, django_settings.SESSION_COOKIE_NAME


def _attributes(given: CookieAttributes, own: Settings) -> CookieAttributes:
    """Return *given* as Django says it, for what is served beside it."""
    of = {name: getattr(django_settings, theirs) for name, theirs in _COOKIE.items()}
    # Django has a False of its own here, for a cookie without the attribute.
    same_site: Any = (of["session_same_site"] or "lax").lower()
    if same_site == "none" and not of["session_https_only"]:
        _tell_of_same_site()
        same_site = "lax"
    closed = django_settings.SESSION_EXPIRE_AT_BROWSER_CLOSE
    age = None if closed else django_settings.SESSION_COOKIE_AGE
    return replace(
        given,
        name=of["session_cookie"],
        max_age=given.max_age if own.is_set("session_max_age") else age,
        path=of["session_path"],
        domain=of["session_domain"],
        same_site=same_site,
        https_only=of["session_https_only"],
    )


@cache
def _tell_of_same_site() -> None:
    logger.warning(
        "SESSION_COOKIE_SAMESITE is 'None' without SESSION_COOKIE_SECURE: browsers drop that cookie"
    )


def _keys() -> tuple[str, ...]:
    return (django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS)


def register_checks() -> None:
    """Have ``manage.py check`` look at the configuration, and tests change it."""
    checks.register(check, checks.Tags.security)
    setting_changed.connect(_forget, dispatch_uid="holdfast.frameworks.django")


def _forget(*, setting: str, **_: Any) -> None:
    if setting.startswith(("SECRET_KEY", "SESSION_")):
        engine.cache_clear()


def check(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with the configuration, as Django's system checks tell it."""
    del app_configs
    try:
        own = Settings()
        engine()
    except ConfigurationError as error:
        return [checks.Error(str(error), id="holdfast.E001")]
    return [*_clashes(own), *_dropped(own), *_unasked()]


def _clashes(own: Settings) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = []
    for name, theirs in {**_COOKIE, "session_partitioned": "SESSION_COOKIE_PARTITIONED"}.items():
        # The last is no setting of Django's yet, which sets no such cookie.
        said = getattr(django_settings, theirs, None)
        if own.is_set(name) and _plain(name, getattr(own, name)) != _plain(name, said):
            variable = f"HOLDFAST_{name.upper()}"
            message = f"{variable} is {own.shown(name)}, and {theirs} is not"
            hint = f"Django sets the cookie: set {theirs} to the same, or unset {variable}."
            found.append(checks.Error(message, hint=hint, id="holdfast.E002"))
    return found


def _plain(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value or None
    # RFC 6265, section 5.2.3: a leading dot of a domain says nothing. Names and paths have a case.
    plain = {"session_same_site": str.lower, "session_domain": _without_dot}.get(name, str)
    return plain(value)


def _without_dot(domain: str) -> str:
    return domain.lower().removeprefix(".")


def _dropped(own: Settings) -> list[checks.CheckMessage]:
    """Return a warning where browsers drop the cookie, as Django's settings say it."""
    said = {name: getattr(django_settings, theirs) for name, theirs in _COOKIE.items()}
    said |= {"session_same_site": said["session_same_site"] or "lax", "session_partitioned": False}
    try:
        own.override(**said)
    except ConfigurationError as error:
        message = str(error)
        for name, theirs in _COOKIE.items():
            message = message.replace(f"HOLDFAST_{name.upper()}", theirs)
        return [checks.Warning(f"browsers drop the cookie: {message}", id="holdfast.W002")]
    return []


def _unasked() -> list[checks.CheckMessage]:
    if django_settings.SESSION_SERIALIZER == _JSON:
        return []
    message = f"SESSION_SERIALIZER is {django_settings.SESSION_SERIALIZER!r}, and is not asked"
    hint = "Sessions are JSON, so that every framework reads them; take the setting away."
    return [checks.Warning(message, hint=hint, id="holdfast.W001")]
