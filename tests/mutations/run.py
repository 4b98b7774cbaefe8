"""Run named tests on mutated copies of the package, each in a fork that has imported all else.

A program of its own, because a process that has imported holdfast cannot run another holdfast:
``python -m tests.mutations.run FOLDER PART PARTS`` prints one JSON object, by row of the table what
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
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutations.table import MUTATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.mutations.table import Mutation

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
AT_ONCE = 4

# What takes its time to import and is not ours: once here, and never in a fork.
_HEAVY = """
    anyio.pytest_plugin anyio._backends._asyncio fastapi hiredis httpx hypothesis.strategies
    itsdangerous litestar.testing pydantic_settings pytest redis.asyncio redis.backoff
    redis.sentinel selenium.webdriver starlette.applications starlette.middleware.sessions
    starlette.testclient
"""


def prepare(copies: Sequence[Path]) -> None:
    """Make of each path a package of its own, compiled, and import what is not ours."""
    first, *others = copies
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "holdfast", first / "holdfast", ignore=ignored)
    compileall.compile_dir(first, quiet=2)
    for other in others:
        shutil.copytree(first, other)
    sys.dont_write_bytecode = True
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


class Trial:
    """Tests that run in a fork, on one copy.

    Args:
        tests: by name.
        copy: what they import holdfast from.
        patience: seconds for all of them together.
    """

    def __init__(self, tests: Iterable[str], copy: Path, patience: float = PATIENCE) -> None:
        self.log = copy.with_suffix(".log")
        self._deadline = time.monotonic() + patience
        self._child = os.fork()
        if self._child == 0:
            _run_and_exit(list(tests), copy, self.log)

    def outcome(self) -> str | None:
        """Say ``passed``, ``failed`` or what else came of them; ``None`` while they run."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            if time.monotonic() < self._deadline:
                return None
            os.killpg(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            return "hung"
        code = os.waitstatus_to_exitcode(status)
        return {0: "passed", 1: "failed"}.get(code, f"could not run, exit status {code}")


def outcome_of(tests: Iterable[str], copy: Path) -> str:
    """Run *tests* on *copy* and wait for what comes of them."""
    trial = Trial(tests, copy, 4 * PATIENCE)
    while (outcome := trial.outcome()) is None:
        time.sleep(0.005)
    if outcome != "passed":
        outcome += "\n" + trial.log.read_text(errors="replace")[-4000:]
    return outcome


def outcomes_of(rows: Iterable[tuple[int, Mutation]], copies: Sequence[Path]) -> dict[str, str]:
    """Run the test of each row without its guard, as many at once as there are copies.

    Most of a mutant's time is its test's waiting for what does not come.
    """
    waiting, free, found = deque(rows), list(copies), dict[str, str]()
    running: list[tuple[int, Path, Trial, contextlib.ExitStack]] = []
    while waiting or running:
        while waiting and free:
            number, row = waiting.popleft()
            copy, guarded = free.pop(), contextlib.ExitStack()
            if guarded.enter_context(mutated(copy, row)):
                running.append((number, copy, Trial([row.test], copy), guarded))
            else:
                found[str(number)] = "stale"
                free.append(copy)
        for each in list(running):
            number, copy, trial, guarded = each
            outcome = trial.outcome()
            if outcome is not None:
                found[str(number)] = outcome
                guarded.close()
                free.append(copy)
                running.remove(each)
        time.sleep(0.005)
    return found


def _run_and_exit(tests: list[str], copy: Path, log: Path) -> None:
    import pytest

    os.setsid()
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)  # for the servers that a test starts
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 3
    try:
        # A plain assertion fails as well, and costs no rewriting of the file it is in.
        options = ["-x", "-q", "--assert=plain"]
        options += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
        paths = [f"{ROOT}/tests/{test}" for test in tests]
        code = int(pytest.main([*options, "--rootdir", str(ROOT), *paths]))
        found = sys.modules["holdfast"].__file__ or ""
        if str(ROOT / "src") in found:
            code = 4
    except BaseException:  # noqa: BLE001 - nothing may leave a fork but its exit status
        traceback.print_exc()
    os._exit(code)


def main(folder: Path, part: int, parts: int) -> None:
    """Run one part of the table and print what came of it."""
    copies = [folder / f"copy{n}" for n in range(AT_ONCE)]
    prepare(copies)
    rows = [(n, row) for n, row in enumerate(MUTATIONS) if n % parts == part]
    tests = sorted({row.test for _, row in rows})
    # A test of time may be starved by the other parts: what fails twice has failed.
    if (base := outcome_of(tests, copies[0])) != "passed":
        base = outcome_of(tests, copies[0])
    found = {"": base}
    print(json.dumps(found | outcomes_of(rows, copies)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
