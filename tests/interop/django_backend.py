"""Django's session tests over our engine, and the way to run them.

Run by ``test_django_backend.py`` in a process of its own, with Django's test folder on the path.
"""

from __future__ import annotations

import importlib
import unittest

import django
from django.conf import settings


def main() -> None:
    """Run Django's mixin over :class:`holdfast.django.SessionStore`."""
    settings.configure(
        SECRET_KEY="a key of more than sixteen characters",
        INSTALLED_APPS=["django.contrib.sessions", "sessions_tests"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        SESSION_ENGINE="holdfast.django",
        USE_TZ=False,
    )
    django.setup()
    from django.test import SimpleTestCase

    from holdfast.django import SessionStore

    mixin = importlib.import_module("sessions_tests.tests").SessionTestsMixin
    suite = type("BackendTests", (mixin, SimpleTestCase), {"backend": SessionStore})
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(suite)
    result = unittest.TextTestRunner(verbosity=1).run(tests)
    raise SystemExit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
