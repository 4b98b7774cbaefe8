"""Authlib's own client tests, Starlette's and Flask's, with our state store in place of its own.

Their files are fetched at test time (Authlib's sdist has no tests; Debian keeps the upstream
archive, which has) and never kept in this repository. They run with the Authlib of that archive,
the oldest that we support; the rest of our tests run with the newest. A checkout of another version
is run where ``HOLDFAST_TEST_AUTHLIB`` names its folder.

Nothing but the import is changed in them. They look for the data of a login in the session, where
Authlib keeps it and we do not: so the session of these tests is a window, which shows with each
mark what our store keeps for it. A test that passes no state through the store passes either way,
so the window also counts what it was shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

ARCHIVE = "python-authlib_1.6.0.orig.tar.gz"
POOL = f"pool/main/p/python-authlib/{ARCHIVE}"
SHA256 = "2dfc1275b287aa1324ac5c014766b8c79fb228c59d98c021750d86b6ec7e0904"
TESTS = 40  # of 41
LEFT_OUT = (
    # Its callback comes without anything of the browser that began the login, and is to succeed:
    # what Authlib itself refuses since 1.6.6 (GHSA-fg6f-75jq-6523).
    "tests/clients/test_flask/test_oauth_client.py::FlaskOAuthTest::test_oauth1_authorize_cache",
)

SUITES = {
    "starlette": "tests/clients/test_starlette",
    "flask": "tests/clients/test_flask",
}
INI = """
[pytest]
anyio_mode = auto
markers =
    asyncio: its tests run on anyio's plugin
"""
CONFTEST = """
import collections
import json

import flask.sessions
import pytest
from starlette.requests import HTTPConnection

from holdfast.oauth.authlib import {framework} as ours
from holdfast.oauth.binding import new_proof
from holdfast.oauth.record import encode, key_of
from holdfast.runtime import runtime

shown = collections.Counter()
latest = None
build = ours.OAuth.__init__


def noted(self, *args, **kwargs):
    global latest
    build(self, *args, **kwargs)
    latest = self


ours.OAuth.__init__ = noted


def peek(key):
    provider, _, state = key.removeprefix("_state_").partition("_")
    name = key_of(state, provider)
    link = runtime().link
    if link is None:
        data = latest.states.states._memory._logins[name].data
    else:
        prefix = runtime().settings.key_prefix
        data = link.execute_sync("GET", prefix + "oauth:" + name).split(b" ", 3)[3]
    shown["data"] += 1
    return json.loads(data)


class Window(dict):
    def __getitem__(self, key):
        value = super().__getitem__(key)
        # With a cache, Authlib has the mark alone in the session, as we always have.
        if key.startswith("_state_") and latest.cache is None:
            value = {{**value, "data": peek(key)}}
        return value

    def __setitem__(self, key, value):
        if key.startswith("_state_") and "browser" not in value:
            provider, _, state = key.removeprefix("_state_").partition("_")
            value = {{"browser": new_proof(), "exp": 1e12, **value}}
            data = encode(value["data"])
            latest.states.states.put_sync(key_of(state, provider), value["browser"], 60000, data)
        super().__setitem__(key, {{k: v for k, v in value.items() if k != "data"}}
                            if isinstance(value, dict) else value)


class FlaskWindow(Window, flask.sessions.SecureCookieSession):
    pass


flask.sessions.SecureCookieSessionInterface.session_class = FlaskWindow


def session(self):
    if not isinstance(self.scope["session"], Window):
        self.scope["session"] = Window(self.scope["session"])
    return self.scope["session"]


HTTPConnection.session = property(session)


@pytest.fixture
def anyio_backend():
    return "asyncio"


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line("the window has shown " + str(shown["data"]))
"""


@pytest.fixture(scope="session")
def source() -> Path:
    """A folder with Authlib and its tests."""
    if folder := os.environ.get("HOLDFAST_TEST_AUTHLIB"):
        return Path(folder)
    # Beside other caches, so that a second run needs no network.
    cache = Path(tempfile.gettempdir()) / f"holdfast-tests-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    archive = cache / ARCHIVE
    if not archive.exists():
        _fetch(archive)
    root = cache / "authlib-1.6.0"
    if not root.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder, tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
            with contextlib.suppress(OSError):  # another process was first
                (Path(folder) / "authlib-1.6.0").rename(root)
    return root


def _fetch(archive: Path) -> None:
    for mirror in _mirrors():
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(mirror + POOL, follow_redirects=True, timeout=60)
            if answer.status_code == 200:
                break
    else:
        pytest.skip("no Debian mirror that apt knows here has Authlib's upstream archive")
    assert hashlib.sha256(answer.content).hexdigest() == SHA256
    partial = archive.with_suffix(f".{os.getpid()}")
    partial.write_bytes(answer.content)
    partial.rename(archive)


def _mirrors() -> list[str]:
    """Where this machine's package manager fetches from."""
    if shutil.which("apt-get") is None:
        return []
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return sorted(set(told.split()))


def run(source: Path, folder: Path, framework: str, **environment: str) -> str:
    """Run their files for *framework* with only the import changed; return what pytest said."""
    for name in ("authlib", "tests/__init__.py", "tests/util.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        if (source / name).exists():
            (folder / name).symlink_to(source / name)
    theirs, own = source / "tests/clients", folder / "tests/clients"
    for path in [
        *theirs.glob("*.py"),
        *theirs.glob("keys/*"),
        *(source / SUITES[framework]).glob("*.py"),
    ]:
        target = own / path.relative_to(theirs)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text()
        imported = f"from authlib.integrations.{framework}_client import OAuth\n"
        if path.name.startswith("test_"):
            assert text.count(imported) == 1
        target.write_text(
            text.replace(imported, f"from holdfast.oauth.authlib.{framework} import OAuth\n")
        )
    (folder / "pytest.ini").write_text(INI)
    (folder / "conftest.py").write_text(textwrap.dedent(CONFTEST.format(framework=framework)))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE_"))}
    left_out = [f"--deselect={name}" for name in LEFT_OUT]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/clients",
            *left_out,
        ],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def counted(words: str, text: str) -> int:
    found = re.search(words, text)
    assert found, text
    return int(found[1])


def all_of_it(source: Path, tmp_path: Path, **environment: str) -> None:
    passed = 0
    for framework in SUITES:
        folder = tmp_path / framework
        folder.mkdir()
        said = run(source, folder, framework, **environment)
        passed += counted(r"(\d+) passed", said)
        assert counted(r"the window has shown (\d+)", said) > 0
    assert passed == TESTS or "HOLDFAST_TEST_AUTHLIB" in os.environ


def test_all_of_it_passes_on_memory(source: Path, tmp_path: Path) -> None:
    all_of_it(source, tmp_path)


def test_all_of_it_passes_on_redis(
    source: Path, tmp_path: Path, redis: RedisServer, key_prefix: str
) -> None:
    all_of_it(
        source,
        tmp_path,
        HOLDFAST_REDIS_URL=redis.url,
        HOLDFAST_KEY_PREFIX=key_prefix,
        HOLDFAST_SECRET_KEY="a key of more than sixteen characters",
    )
    # What the tests abandon is kept until it expires: so it was Redis that they ran on.
    left = redis.execute("KEYS", f"{key_prefix}oauth:*")
    assert isinstance(left, list)
    assert left
