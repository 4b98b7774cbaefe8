"""Django's own tests over our engine, from the sdists of two releases.

Their files are fetched from the package index at test time and never kept in this repository.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.sdist import unpacked

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# Of their session tests, by release; all of them have to pass.
RELEASES = {"5.2.19": 65, "5.1.15": 65}
# What of their other suites is about sessions: of the middleware, the login, the test client.
LABELS = (
    "sessions_tests",
    "auth_tests.test_middleware",
    "auth_tests.test_signals",
    "auth_tests.test_views",
    "test_client",
    "test_client_regress",
)
LEFT_OUT = {
    "test_empty_session_saved": "looks for the session in Django's table, by Django's model",
}
SETTINGS = """
from test_sqlite import *
SESSION_ENGINE = "holdfast.django"
"""


@pytest.fixture(scope="session", params=RELEASES)
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Django as its sdist has it: the package, and its test folder beside it."""
    folder = tmp_path_factory.mktemp("django")
    # pip asks an sdist for its name, for which it has to be able to build it.
    build = ("--only-binary", "setuptools")
    root = unpacked("django", folder, *build, release=request.param)
    (root / "tests" / "holdfast_settings.py").write_text(SETTINGS)
    return root


def run(suite: Path, *command: str, **environment: str) -> str:
    """Run their tests in a process of its own, and return what unittest said."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE_"))}
    path = os.pathsep.join((str(suite), str(suite / "tests"), str(ROOT)))
    done = subprocess.run(
        [sys.executable, *command],
        cwd=suite / "tests",
        env=kept | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.stdout + done.stderr


def failed(said: str) -> set[str]:
    """Return the names of the tests that did not pass."""
    return set(re.findall(r"^(?:ERROR|FAIL): (\w+)", said, re.MULTILINE))


def test_a_session_is_what_django_says(suite: Path, redis: RedisServer, key_prefix: str) -> None:
    env = {"HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
    said = run(suite, "-m", "tests.interop.django_backend", **env)
    release = suite.name.removeprefix("django-")
    assert f"Ran {RELEASES[release]} tests" in said, said
    assert not failed(said), said
    assert redis.execute("KEYS", f"*{key_prefix}session:*"), "its sessions were in Redis"


def test_its_logins_and_its_test_client_run_on_it(
    suite: Path, redis: RedisServer, key_prefix: str
) -> None:
    env = {"HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
    options = ("--settings=holdfast_settings", "--parallel=1")
    said = run(suite, "runtests.py", *options, *LABELS, **env)
    assert f"Testing against Django installed in '{suite}/django'" in said, said
    (count,) = re.findall(r"^Ran (\d+) tests", said, re.MULTILINE)
    assert int(count) > 900, said
    assert failed(said) == set(LEFT_OUT), said
