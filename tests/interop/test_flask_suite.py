"""Flask's own tests of sessions over our interface, from the sdists of two releases.

Their files are fetched from the package index at test time and never kept in this repository. Each
release runs with its own Flask, on memory and on Redis.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.sdist import unpacked

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

# What of their tests is about sessions, by release: how many pass.
RELEASES = {"3.1.3": 24, "3.0.3": 23}
CHOICE = "session or flash"
LEFT_OUT = {
    "test_session_using_samesite_attribute": "expects no SameSite where none is configured: ours "
    "is Lax then",
    "test_session_refresh_vary": "expects a session that nobody looked at to be loaded and its "
    "cookie sent again: ours is left alone",
}
PLUGIN = """
import _pytest.compat
import _pytest.monkeypatch
import flask
import flask.sessions

from holdfast.flask import FlaskSessionInterface

flask.Flask.session_interface = FlaskSessionInterface()
flask.sessions.SecureCookieSessionInterface = FlaskSessionInterface
# Their conftest asks for a name that pytest has renamed since.
if not hasattr(_pytest.monkeypatch, "notset"):
    _pytest.monkeypatch.notset = _pytest.compat.NOTSET
"""
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ours")


@pytest.fixture(scope="module", params=RELEASES)
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One release of Flask: its sources, and its tests."""
    root = unpacked("flask", tmp_path_factory.mktemp("flask"), release=request.param)
    (root / "ours.py").write_text(PLUGIN)
    return root


def run(suite: Path, **environment: str) -> str:
    """Run their tests in a process of its own, and return what pytest said."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE_"))}
    path = os.pathsep.join((str(suite), str(suite / "src")))
    choice = " and not ".join((f"({CHOICE})", *LEFT_OUT))
    done = subprocess.run(
        [*PYTEST, "-W", "ignore", "-k", choice, "tests"],
        cwd=suite,
        env=kept | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_but_two_pass_on_memory(suite: Path) -> None:
    expected = RELEASES[suite.name.removeprefix("flask-")]
    assert f"{expected} passed" in run(suite)


def test_all_but_two_pass_on_redis(suite: Path, redis: RedisServer, key_prefix: str) -> None:
    expected = RELEASES[suite.name.removeprefix("flask-")]
    environment = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        # A busy machine is slow, not away.
        "HOLDFAST_REDIS_TIMEOUT": "10",
    }
    assert f"{expected} passed" in run(suite, **environment)
    assert redis.execute("KEYS", f"{key_prefix}session:*"), "its sessions are in Redis"
