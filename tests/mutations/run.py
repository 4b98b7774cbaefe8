"""Run named tests on mutated copies of the package.

A program of its own, because a process that has imported holdfast cannot run another holdfast:
``python -m tests.mutations.run FOLDER PART PARTS`` prints one JSON object, by row of the table what
came of its test.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.mutations.table import MUTATIONS
from tests.mutations.trials import Wanted, outcomes_of
from tests.mutations.warm import warm_outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mutations.table import Mutation

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 4
# How often a guard that nobody missed is taken out again, with nothing else going on here.
ALONE = 2

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


def options_for(tests: Sequence[str]) -> list[str]:
    """Return what pytest is told to run *tests*, by their names in the table."""
    # A plain assertion fails as well, and costs no rewriting of the file it is in.
    options = ["-x", "-q", "--assert=plain", "--capture=sys"]
    options += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
    return [*options, "--rootdir", str(ROOT), *(f"{ROOT}/tests/{test}" for test in tests)]


def run_cold(test: str, copy: Path) -> int:
    """Run *test* in a process that has imported nothing of ours yet."""
    sys.path.insert(0, str(copy))
    code = int(pytest.main(options_for([test])))
    found = sys.modules["holdfast"].__file__ or ""
    return 4 if str(ROOT / "src") in found else code


def main(folder: Path, part: int, parts: int) -> None:
    """Run one part of the table and print what came of it."""
    copies = [folder / f"copy{n}" for n in range(AT_ONCE)]
    prepare(copies)
    rows = [(n, row) for n, row in enumerate(MUTATIONS) if n % parts == part]
    tests = sorted({row.test for _, row in rows})
    found = warm_outcomes(rows, copies, options_for(tests))
    # A test of time may be starved by the other parts: what fails twice has failed.
    again = [test for test in tests if found[test] != "passed"]
    found |= outcomes_of([Wanted(test, None, partial(run_cold, test)) for test in again], copies)
    bad = [f"{test} {found.pop(test)}" for test in tests if found[test] != "passed"]
    for test in tests:
        found.pop(test, None)
    left = [(n, row) for n, row in rows if str(n) not in found]
    found |= outcomes_of(_cold(left), copies)
    # Beside others a test may miss what it waits for, and one that takes turns find none to take.
    for _ in range(ALONE):
        left = [(n, row) for n, row in left if found[str(n)].startswith(("passed", "hung"))]
        found |= outcomes_of(_cold(left), copies[:1])
    print(json.dumps({"": "\n".join(bad) or "passed"} | found))


def _cold(rows: Sequence[tuple[int, Mutation]]) -> list[Wanted]:
    return [Wanted(str(n), row, partial(run_cold, row.test)) for n, row in rows]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
