"""Starlette's own session tests, from its sdist, with nothing but the import changed.

Their file is fetched from the package index at test time and never kept in this repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

STARLETTE = version("starlette")
IMPORTED = "from starlette.middleware.sessions import Session, SessionMiddleware"
OURS = "from holdfast import Session, SessionMiddleware"
TESTS = 29
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Starlette's test folder, with our middleware in the place of theirs."""
    # Beside other caches, so that a second run needs no network.
    cache = Path(tempfile.gettempdir()) / f"holdfast-tests-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    sdist = cache / f"starlette-{STARLETTE}.tar.gz"
    folder = tmp_path_factory.mktemp("starlette")
    if not sdist.exists():
        _download(folder)
        shutil.move(folder / sdist.name, sdist)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    root = folder / f"starlette-{STARLETTE}"
    tests = root / "tests" / "middleware" / "test_session.py"
    text = tests.read_text()
    assert text.count(IMPORTED) == 1
    tests.write_text(text.replace(IMPORTED, OURS))
    return root


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    wanted = ["--no-binary", ":all:", "--no-deps"]
    done = subprocess.run(
        [*command, *wanted, "--dest", str(folder), f"starlette=={STARLETTE}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"starlette's sdist cannot be fetched:\n{done.stderr}"


def run(suite: Path, *arguments: str, **environment: str) -> str:
    """Run their file in a process of its own, and return what pytest said."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE_"))}
    done = subprocess.run(
        [*PYTEST, "tests/middleware/test_session.py", *arguments],
        cwd=suite,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_of_it_passes_on_memory(suite: Path) -> None:
    assert f"{TESTS} passed" in run(suite)


def test_its_asyncio_half_passes_on_redis(suite: Path, redis: RedisServer, key_prefix: str) -> None:
    said = run(
        suite,
        "-k",
        "not trio",
        HOLDFAST_REDIS_URL=redis.url,
        HOLDFAST_KEY_PREFIX=key_prefix,
        HOLDFAST_SECRET_KEY="a key of more than sixteen characters",
    )
    assert " passed" in said
    assert "failed" not in said
    assert redis.execute("KEYS", f"{key_prefix}session:*"), "its sessions are in Redis"
