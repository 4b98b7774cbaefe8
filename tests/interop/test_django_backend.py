"""Django's own session tests, from its sdist, over a thin backend on our store.

Their file is fetched from the package index at test time and never kept in this repository. None of
its tests is left out.
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

pytestmark = pytest.mark.slow

DJANGO = version("django")
TESTS = 65
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Django's test folder."""
    # Beside other caches, so that a second run needs no network.
    cache = Path(tempfile.gettempdir()) / f"holdfast-tests-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    sdist = cache / f"django-{DJANGO}.tar.gz"
    folder = tmp_path_factory.mktemp("django")
    if not sdist.exists():
        _download(folder)
        shutil.move(folder / sdist.name, sdist)
    with tarfile.open(sdist) as archive:
        wanted = [each for each in archive if "/tests/sessions_tests/" in each.name]
        archive.extractall(folder, members=wanted, filter="data")
    return folder / f"django-{DJANGO}" / "tests"


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # pip asks an sdist for its name, for which it has to be able to build it.
    wanted = ["--no-binary", ":all:", "--only-binary", "setuptools", "--no-deps"]
    done = subprocess.run(
        [*command, *wanted, "--dest", str(folder), f"django=={DJANGO}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"Django's sdist cannot be fetched:\n{done.stderr}"


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
