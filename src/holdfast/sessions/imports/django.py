"""Sessions of Django: those in its Redis cache, and, where Django is set up here, its database.

From the cache only JSON is taken; Django's own serializer for Redis is pickle, which is refused.
From the database only what Django signed as JSON is taken, with its own key and by its own code.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from holdfast.errors import SessionUnavailable
from holdfast.sessions.imports.foreign import (
    PICKLE,
    Claim,
    Foreign,
    Source,
    fetch,
    is_pickle,
    object_of,
)
from holdfast.sessions.stores.sync import blocking

if TYPE_CHECKING:
    from holdfast.link import Link

_ID = re.compile(r"[0-9a-z]{32}")
# KEY_PREFIX "" and VERSION 1, Django's defaults, then what the session engine adds.
_KEY = ":1:django.contrib.sessions.cache"
_APP = "django.contrib.sessions"
# The engines that keep sessions in the database, be it beside the cache, and ours, which may have
# come in the place of one of them.
_ENGINES = {
    "django.contrib.sessions.backends.db",
    "django.contrib.sessions.backends.cached_db",
    "holdfast.django",
}
_SALT = "django.contrib.sessions.SessionStore"


class DjangoSource(Source):
    """Reads Django's sessions: first those in the cache, then those in the database.

    Args:
        link: to the Redis of the cache, ``None`` where there is none.
    """

    package = "django"
    cookie = "sessionid"

    def __init__(self, link: Link | None) -> None:
        super().__init__()
        self._link = link

    def claim(self, value: str) -> Claim | None:
        """See :meth:`Source.claim`."""
        return Claim(self.package, value) if _ID.fullmatch(value) else None

    async def read(self, claim: Claim) -> Foreign | None:
        """See :meth:`Source.read`."""
        cached = await self._cached(claim.id)
        if isinstance(cached, Foreign):
            return cached
        found = await self._from_database(claim.id)
        if found is None and cached is not None:
            self.refuse(f"in the cache {cached}")
        return found

    async def _cached(self, session_key: str) -> Foreign | str | None:
        """Return the session in the cache, ``None`` for none, or why it cannot be read."""
        found = None if self._link is None else await fetch(self._link, _KEY + session_key)
        if found is None:
            return None
        value, seconds = found
        data = object_of(value)
        if data is None:
            return PICKLE if is_pickle(value) else "it is not JSON"
        return Foreign(data, seconds)

    async def _from_database(self, session_key: str) -> Foreign | None:
        if not _database_is_there():
            if self._link is None:
                self.refuse(
                    "there is no Redis to look for its cache in, and Django is not set up here, "
                    "so that its database cannot be asked"
                )
            return None
        from django.contrib.sessions.models import Session
        from django.db import Error
        from django.utils import timezone

        now = timezone.now()
        rows = Session.objects.filter(pk=session_key, expire_date__gt=now)
        try:
            row = rows.first() if blocking() else await rows.afirst()
        except Error as error:
            raise SessionUnavailable("Django's database cannot be asked") from error
        if row is None:
            return None
        data = _unsigned(row.session_data)
        if data is None:
            self.refuse("in the database it is no JSON that Django's present key has signed")
            return None
        return Foreign(data, (row.expire_date - now).total_seconds())


def _database_is_there() -> bool:
    # Who has not set Django up in this process does not want it set up by us.
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return False
    from django.apps import apps

    kept_there = conf.settings.SESSION_ENGINE in _ENGINES
    return bool(kept_there and apps.ready and apps.is_installed(_APP))


def _unsigned(text: str) -> dict[str, Any] | None:
    from django.core import signing

    try:
        data = signing.loads(text, salt=_SALT, serializer=signing.JSONSerializer)
    except (signing.BadSignature, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
