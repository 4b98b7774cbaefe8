"""Django's own session tests, from its sdist, over a thin backend on our store.

Their file is fetched from the package index at test time and never kept in this repository. None of
its tests is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.sdist import unpacked

if TYPE_CHECKING:
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

TESTS = 65
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Django's test folder."""
    folder = tmp_path_factory.mktemp("django")
    # pip asks an sdist for its name, for which it has to be able to build it.
    build = ("--only-binary", "setuptools")
    return unpacked("django", folder, *build, below="/tests/sessions_tests/") / "tests"


def run(suite: Path, **environment: str) -> str:
    """Run their tests in a process of its own, and return what unittest said."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE_"))}
    path = os.pathsep.join((str(suite), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.interop.django_backend"],
        cwd=suite,
        env=kept | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_all_of_it_passes_on_memory(suite: Path) -> None:
    assert f"Ran {TESTS} tests" in run(suite)


def test_all_of_it_passes_on_redis(suite: Path, redis: RedisServer, key_prefix: str) -> None:
    said = run(suite, HOLDFAST_REDIS_URL=redis.url, HOLDFAST_KEY_PREFIX=key_prefix)
    assert f"Ran {TESTS} tests" in said
    assert redis.execute("KEYS", f"*{key_prefix}session:*"), "its sessions were in Redis"
