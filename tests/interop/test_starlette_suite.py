"""Starlette's own session tests, from its sdist, with nothing but the import changed.

Their file is fetched from the package index at test time and never kept in this repository.
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

IMPORTED = "from starlette.middleware.sessions import Session, SessionMiddleware"
OURS = "from holdfast import Session, SessionMiddleware"
TESTS = 29
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Starlette's test folder, with our middleware in the place of theirs."""
    root = unpacked("starlette", tmp_path_factory.mktemp("starlette"))
    tests = root / "tests" / "middleware" / "test_session.py"
    text = tests.read_text()
    assert text.count(IMPORTED) == 1
    tests.write_text(text.replace(IMPORTED, OURS))
    return root


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


@pytest.mark.slow
def test_all_of_it_passes_on_memory(suite: Path) -> None:
    assert f"{TESTS} passed" in run(suite)


@pytest.mark.slow
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
