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


def unpacked(name: str, folder: Path, *options: str, below: str = "") -> Path:
    """Unpack into *folder* the sdist of the version of *name* that is installed.

    Args:
        name: of the package, as its sdist is called.
        folder: an empty one.
        options: of pip, for what it needs to ask the sdist for its name.
        below: only files with this in their path.

    Returns:
        Where its files are.
    """
    # Beside other caches, so that a second run needs no network.
    cache = Path(tempfile.gettempdir()) / f"holdfast-tests-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    release = f"{name}-{version(name)}"
    sdist = cache / f"{release}.tar.gz"
    if not sdist.exists():
        _download(name, folder, options)
        shutil.move(folder / sdist.name, sdist)
    with tarfile.open(sdist) as archive:
        wanted = [each for each in archive if below in each.name]
        archive.extractall(folder, members=wanted, filter="data")
    return folder / release


def _download(name: str, folder: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    wanted = ["--no-binary", ":all:", "--no-deps", *options]
    done = subprocess.run(
        [*command, *wanted, "--dest", str(folder), f"{name}=={version(name)}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"the sdist of {name} cannot be fetched:\n{done.stderr}"
