"""A Django site in a process of its own, because Django is configured once per process.

``python django_site.py cache|db|cached_db [json|expired|resigned|broken]`` has Django write a
session, then prints what holdfast makes of it for three requests that bring Django's cookie, as
JSON. It reads REDIS and FOLDER.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django
import redis
from django.conf import settings
from tests.sessions.browser import Browser, Doing

from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.imports.django import DjangoSource
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.sync import driven
from holdfast.settings import Settings

KEY = "a key of more than sixteen characters"
DATA = {"_auth_user_id": "7", "cart": [1, "Zoë"]}


class JSONSerializer:
    """What the guide has a site set as the serializer of its cache."""

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            return pickle.loads(data)


def set_up(kind: str, *, as_json: bool) -> None:
    cache: dict[str, Any] = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": os.environ["REDIS"],
    }
    if as_json:
        cache["OPTIONS"] = {"serializer": JSONSerializer}
    settings.configure(
        SECRET_KEY="the key of the Django site",
        INSTALLED_APPS=["django.contrib.sessions"],
        SESSION_ENGINE=f"django.contrib.sessions.backends.{kind}",
        CACHES={"default": cache},
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": Path(os.environ["FOLDER"]) / "site.sqlite3",
            }
        },
        USE_TZ=True,
    )
    django.setup()
    if kind.endswith("db"):
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


def written_by_django() -> str:
    from importlib import import_module

    engine = import_module(settings.SESSION_ENGINE)
    session = engine.SessionStore()
    session.update(DATA)
    session.save()
    assert session.session_key
    if "json" in sys.argv:
        # As it was before the site set the serializer, and then was written once more.
        with redis.Redis.from_url(os.environ["REDIS"]) as client:
            client.set(f":1:{session.cache_key}", pickle.dumps(DATA), ex=60)
        session = engine.SessionStore(session.session_key)
        assert dict(session.items()) == DATA
        session.save()
    return str(session.session_key)


def harm(how: str) -> None:
    """Have the session be of the past, be signed with a key of the past, or be out of reach."""
    from django.contrib.sessions.models import Session
    from django.db import connection

    if how == "expired":
        Session.objects.update(expire_date=datetime.now(UTC) - timedelta(seconds=1))
    elif how == "resigned":
        settings.SECRET_KEY = "another key"
    elif how == "broken":
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE django_session")


def found_without_a_loop(cookie: str) -> bool:
    """Whether code that cannot await finds the session as well."""
    claim = DjangoSource(None).claim(cookie)
    assert claim is not None
    return driven(DjangoSource(None).read(claim)) is not None


async def requests(cookie: str) -> list[list[Any]]:
    """Come in with Django's cookie, with ours, and with Django's again after a logout."""
    doing, store = Doing(), MemorySessionStore()
    ours = Settings(
        secret_key=KEY,
        redis_url=None if "db" in sys.argv else os.environ["REDIS"],
        session_import="django",
    )
    browser = Browser(SessionMiddleware(doing, settings=ours, store=store), {"sessionid": cookie})
    answers = []
    for handle in (dict, lambda session: session.invalidate(), dict):
        doing.handle = handle
        answer = await browser.get()
        answers.append([answer.status, answer.body.decode(), answer.set_cookie is not None])
    return answers


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    set_up(sys.argv[1], as_json="json" in sys.argv)
    session_key = written_by_django()
    harm(sys.argv[-1])
    if sys.argv[1:] == ["db"]:
        assert found_without_a_loop(session_key)
    print(json.dumps(asyncio.run(requests(session_key))))
