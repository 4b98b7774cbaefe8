"""Trials: something is run in a fork, on a copy of the package that lacks a guard.

What is run is none of this file's business: it is a function that returns an exit status.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from tests.mutations.table import Mutation

PATIENCE = 60.0


class Wanted(NamedTuple):
    """One trial to be made.

    Attributes:
        name: of its outcome.
        row: the guard that is taken out of the copy; ``None`` for none.
        work: what is run on the copy.
    """

    name: str
    row: Mutation | None
    work: Callable[[Path], int]


class Trial:
    """Something that runs in a fork.

    Args:
        work: what is run there; it returns the exit status.
        copy: what it imports holdfast from.
    """

    def __init__(self, work: Callable[[Path], int], copy: Path) -> None:
        self.log = copy.with_suffix(".log")
        self._deadline = time.monotonic() + PATIENCE
        self._child = os.fork()
        if self._child == 0:
            _run_and_exit(work, copy, self.log)

    def outcome(self) -> str | None:
        """Say ``passed``, ``failed`` or what else came of it; ``None`` while it runs."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            if time.monotonic() < self._deadline:
                return None
            os.killpg(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            return "hung"
        code = os.waitstatus_to_exitcode(status)
        return {0: "passed", 1: "failed"}.get(code, f"could not run, exit status {code}")


def outcomes_of(wanted: Iterable[Wanted], copies: Sequence[Path]) -> dict[str, str]:
    """Make the trials, as many at once as there are copies.

    Most of a mutant's time is its test's waiting for what does not come.
    """
    waiting, free, found = deque(wanted), list(copies), dict[str, str]()
    running: list[tuple[Wanted, Path, Trial, contextlib.ExitStack]] = []
    while waiting or running:
        while waiting and free:
            each = waiting.popleft()
            copy, guarded = free.pop(), contextlib.ExitStack()
            if guarded.enter_context(mutated(copy, each.row)):
                running.append((each, copy, Trial(each.work, copy), guarded))
            else:
                found[each.name] = "stale"
                free.append(copy)
        for one in list(running):
            (name, row, _), copy, trial, guarded = one
            outcome = trial.outcome()
            if outcome is not None:
                if outcome != ("passed" if row is None else "failed"):
                    outcome += "\n" + trial.log.read_text(errors="replace")[-4000:]
                found[name] = outcome
                guarded.close()
                free.append(copy)
                running.remove(one)
        time.sleep(0.005)
    return found


@contextlib.contextmanager
def mutated(copy: Path, row: Mutation | None) -> Iterator[bool]:
    """Take the guard out of the copy; false where the row is stale."""
    if row is None:
        yield True
        return
    file = copy / "holdfast" / row.file
    text, times = file.read_text(), file.stat()
    if text.count(row.guard) != 1:
        yield False
        return
    file.write_text(text.replace(row.guard, row.instead))
    try:
        yield True
    finally:
        file.write_text(text)
        # Python knows what was compiled by the time and size of its source.
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def _run_and_exit(work: Callable[[Path], int], copy: Path, log: Path) -> None:
    os.setsid()
    os.environ["PYTHONPATH"] = str(copy)  # for the servers that a test starts
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 3
    try:
        code = work(copy)
    except BaseException:  # noqa: BLE001 - nothing may leave a fork but its exit status
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
