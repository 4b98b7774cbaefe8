"""Django's session tests over our store: a backend as thin as can be, and the way to run them.

Run by ``test_django_backend.py`` in a process of its own, with Django's test folder on the path.
"""

from __future__ import annotations

import importlib
import unittest
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError

from holdfast.runtime import runtime
from holdfast.sessions.choice import default_store
from holdfast.sessions.cookie import Credential, new_credential
from holdfast.sessions.record import decode_fields, encode_value
from holdfast.sessions.store import Change, Outcome, Record, Rotation, SessionKey
from holdfast.sessions.sync import SyncSessionStore


def key_of(session_key: str) -> SessionKey:
    locator, _, secret = session_key.partition(".")
    return Credential(locator, secret).key


class Backend(SessionBase):  # type: ignore[misc]
    """What Django calls a session store: one session, and its way to ours."""

    store = SyncSessionStore(default_store(runtime()))
    _session_key: str | None  # a property of the base

    def __init__(self, session_key: str | None = None) -> None:
        self._stored: dict[str, bytes] = {}
        super().__init__(session_key)

    def _get_new_session_key(self) -> str:
        credential = new_credential()
        return f"{credential.locator}.{credential.secret}"

    def exists(self, session_key: str | None) -> bool:
        return bool(session_key) and self._found(session_key) is not None

    def _found(self, session_key: str | None) -> Record | None:
        found = self.store.load(key_of(session_key or ""))
        return found if isinstance(found, Record) else None

    def load(self) -> dict[str, Any]:
        found = self._found(self.session_key)
        if found is None:
            self._session_key = None
            return {}
        self._stored = dict(found.fields)
        return decode_fields(found.fields)

    def create(self) -> None:
        self._session_key = self._get_new_session_key()
        self.save(must_create=True)
        self.modified = True

    def save(self, must_create: bool = False) -> None:
        if self.session_key is None:
            self.create()
            return
        data = self._get_session(no_load=must_create)
        fields = {name: encode_value(name, value) for name, value in data.items()}
        key, age = key_of(self.session_key), self.get_expiry_age()
        if age <= 0:
            self.store.delete(key.id_hash)
        elif must_create:
            if self.store.create(key, fields, max_age=age) is not Outcome.DONE:
                raise CreateError
        elif self.store.save(key, self._change(fields)) is Outcome.GONE:
            raise UpdateError
        self._stored = fields

    def _change(self, fields: dict[str, bytes]) -> Change:
        stored = self._stored
        changed = {name: raw for name, raw in fields.items() if stored.get(name) != raw}
        return Change(changed, tuple(name for name in stored if name not in fields))

    def delete(self, session_key: str | None = None) -> None:
        session_key = session_key or self.session_key
        if session_key is not None:
            self.store.delete(key_of(session_key).id_hash)

    def cycle_key(self) -> None:
        self._get_session()
        if self.session_key is None:
            self.create()
            return
        locator, _, secret = self.session_key.partition(".")
        new = Credential(locator, secret).rotated()
        rotation = Rotation(new.key.secret_hash, max_age=self.get_expiry_age())
        if self.store.save(key_of(self.session_key), Change(rotation=rotation)) is Outcome.GONE:
            raise UpdateError
        self._session_key = f"{new.locator}.{new.secret}"

    async def acycle_key(self) -> None:
        await sync_to_async(self.cycle_key)()

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing: the store does it by itself."""


def main() -> None:
    """Run Django's mixin over :class:`Backend`."""
    settings.configure(
        SECRET_KEY="a key of more than sixteen characters",
        INSTALLED_APPS=["django.contrib.sessions", "sessions_tests"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        USE_TZ=False,
    )
    django.setup()
    from django.test import SimpleTestCase

    mixin = importlib.import_module("sessions_tests.tests").SessionTestsMixin
    suite = type("BackendTests", (mixin, SimpleTestCase), {"backend": Backend})
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(suite)
    result = unittest.TextTestRunner(verbosity=1).run(tests)
    raise SystemExit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
