"""Run named tests on mutated copies of the package, each in a fork that has imported all else.

A program of its own, because a process that has imported holdfast cannot run another holdfast:
``python -m tests.mutations.run COPY PART PARTS`` prints one JSON object, by row of the table what
came of its test.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutations.table import MUTATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.mutations.table import Mutation

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0

# What takes its time to import and is not ours: once here, and never in a fork.
_HEAVY = """
    anyio.pytest_plugin anyio._backends._asyncio fastapi hiredis httpx hypothesis.strategies
    itsdangerous pydantic_settings pytest redis.asyncio redis.backoff redis.sentinel
    selenium.webdriver starlette.applications starlette.middleware.sessions starlette.testclient
"""


def prepare(copy: Path) -> None:
    """Make *copy* a package of its own, compiled, and import what is not ours."""
    shutil.copytree(
        ROOT / "src" / "holdfast", copy / "holdfast", ignore=shutil.ignore_patterns("__pycache__")
    )
    compileall.compile_dir(copy, quiet=2)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)  # for the servers that a test starts
    for name in _HEAVY.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert "holdfast" not in sys.modules


@contextlib.contextmanager
def mutated(copy: Path, mutation: Mutation) -> Iterator[bool]:
    """Take the guard out of the copy; false where the row is stale."""
    file = copy / "holdfast" / mutation.file
    text, times = file.read_text(), file.stat()
    if text.count(mutation.guard) != 1:
        yield False
        return
    file.write_text(text.replace(mutation.guard, mutation.instead))
    try:
        yield True
    finally:
        file.write_text(text)
        # Python knows what was compiled by the time and size of its source.
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def outcome_of(tests: Iterable[str], log: Path) -> str:
    """Run *tests* in a fork; say ``passed``, ``failed`` or what else came of them."""
    child = os.fork()
    if child == 0:
        _run_and_exit(list(tests), log)
    deadline = time.monotonic() + PATIENCE
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hung"
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    return {0: "passed", 1: "failed"}.get(code, f"could not run, exit status {code}")


def _run_and_exit(tests: list[str], log: Path) -> None:
    import pytest

    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 3
    try:
        options = ["-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
        paths = [f"{ROOT}/tests/{test}" for test in tests]
        code = int(pytest.main([*options, "--rootdir", str(ROOT), *paths]))
        found = sys.modules["holdfast"].__file__ or ""
        if str(ROOT / "src") in found:
            code = 4
    except BaseException:  # noqa: BLE001 - nothing may leave a fork but its exit status
        traceback.print_exc()
    os._exit(code)


def main(copy: Path, part: int, parts: int) -> None:
    """Run one part of the table and print what came of it."""
    prepare(copy)
    rows = [(n, row) for n, row in enumerate(MUTATIONS) if n % parts == part]
    log = copy / "log"
    found = {"": outcome_of(sorted({row.test for _, row in rows}), log)}
    if found[""] != "passed":
        found[""] += "\n" + log.read_text(errors="replace")[-4000:]
    for number, row in rows:
        with mutated(copy, row) as fresh:
            found[str(number)] = outcome_of([row.test], log) if fresh else "stale"
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
