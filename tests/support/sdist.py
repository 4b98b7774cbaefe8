"""A package's own tests, from its sdist: fetched from the package index and kept for later."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


def unpacked(
    name: str, folder: Path, *options: str, below: str = "", release: str | None = None
) -> Path:
    """Unpack into *folder* the sdist of *name*.

    Args:
        name: of the package, as its sdist is called.
        folder: an empty one.
        options: of pip, for what it needs to ask the sdist for its name.
        below: only files with this in their path.
        release: its version; by default the one that is installed.

    Returns:
        Where its files are.
    """
    # Beside other caches, so that a second run needs no network.
    cache = Path(tempfile.gettempdir()) / f"holdfast-tests-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    release = release or version(name)
    sdist = cache / f"{name}-{release}.tar.gz"
    if not sdist.exists():
        _download(f"{name}=={release}", folder, options)
        shutil.move(folder / sdist.name, sdist)
    with tarfile.open(sdist) as archive:
        wanted = [each for each in archive if below in each.name]
        archive.extractall(folder, members=wanted, filter="data")
    return folder / f"{name}-{release}"


def _download(requirement: str, folder: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    wanted = ["--no-binary", ":all:", "--no-deps", *options]
    done = subprocess.run(
        [*command, *wanted, "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"the sdist of {requirement} cannot be fetched:\n{done.stderr}"
