"""Tests without a guard, in forks of a process that has imported and collected all of them.

There the guard is taken out of the functions that are alive. Where that is not all of it (a table,
a default, a decorator), and where a test does not notice, nothing is said: a fork that imports the
mutated copy has to show it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections import defaultdict
from functools import partial
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from tests.mutations.trials import Wanted, outcomes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.mutations.table import Mutation

Swaps = list[tuple[CodeType, CodeType]]


def warm_outcomes(
    rows: Sequence[tuple[int, Mutation]], copies: Sequence[Path], options: Sequence[str]
) -> dict[str, str]:
    """Return what came of each test as it is, by its name, and of each row that was noticed.

    Args:
        rows: by number.
        copies: of the package; the first is what is imported.
        options: for pytest, with what is to be collected.
    """
    told = copies[0].with_suffix(".json")
    child = os.fork()
    if child == 0:
        code = 3
        try:
            code = _collect(rows, copies, options, told)
        except BaseException:  # noqa: BLE001 - nothing may leave a fork but its exit status
            traceback.print_exc()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        log = copies[0].with_suffix(".warm.log").read_text(errors="replace")
        raise RuntimeError(f"the tests could not be collected\n{log[-4000:]}")
    found: dict[str, str] = json.loads(told.read_text())
    return found


def _collect(
    rows: Sequence[tuple[int, Mutation]],
    copies: Sequence[Path],
    options: Sequence[str],
    told: Path,
) -> int:
    log = os.open(copies[0].with_suffix(".warm.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(copies[0]))
    warm = _Warm(rows, copies)
    code = int(pytest.main(list(options), plugins=[warm]))
    told.write_text(json.dumps(warm.found))
    sys.stdout.flush()
    return 0 if warm.found else code or 3


class _Warm:
    """A plugin that makes trials where a session would run its tests."""

    def __init__(self, rows: Sequence[tuple[int, Mutation]], copies: Sequence[Path]) -> None:
        self._rows = rows
        self._copies = copies
        self._live: dict[object, list[FunctionType]] = defaultdict(list)
        self.found: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Make them."""
        if session.testsfailed:
            raise session.Failed("not all can be imported")
        home = str(self._copies[0])
        assert (sys.modules["holdfast"].__file__ or "").startswith(home)
        for each in gc.get_objects():
            if isinstance(each, FunctionType) and each.__code__.co_filename.startswith(home):
                self._live[_key(each.__code__)].append(each)
        gc.collect()
        gc.freeze()
        outcomes = outcomes_of(self._wanted(session), self._copies)
        tests = {row.test for _, row in self._rows}
        self.found = {
            name: came for name, came in outcomes.items() if name in tests or came == "failed"
        }
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Have the log of a trial say why it failed."""
        if report.failed:
            print(report.longreprtext, flush=True)

    def _wanted(self, session: pytest.Session) -> Iterator[Wanted]:
        items = {row.test: _named(session, row.test) for _, row in self._rows}
        for test, found in items.items():
            yield Wanted(test, None, partial(self._run, session, found, []))
        for number, row in self._rows:
            swaps = self._swaps(row)
            if swaps is not None:
                yield Wanted(str(number), row, partial(self._run, session, items[row.test], swaps))

    def _swaps(self, row: Mutation) -> Swaps | None:
        """Return what becomes of living functions, ``None`` where more than they changes."""
        if not row.file.endswith(".py"):
            return []
        file = self._copies[0] / "holdfast" / row.file
        text = file.read_text()
        changed = text.replace(row.guard, row.instead)
        try:
            before, after = (
                compile(each, str(file), "exec", dont_inherit=True) for each in (text, changed)
            )
        except SyntaxError:
            return None
        return _different(before, after)

    def _run(
        self, session: pytest.Session, items: Sequence[pytest.Item], swaps: Swaps, copy: Path
    ) -> int:
        _move(str(self._copies[0]), str(copy))
        for before, after in swaps:
            for each in self._live.get(_key(before), ()):
                each.__code__ = after
        for item in items:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return 1 if session.testsfailed else 0


def _named(session: pytest.Session, test: str) -> list[pytest.Item]:
    name = f"tests/{test}"
    inside = (f"{name}[", f"{name}::")
    found = [
        item for item in session.items if item.nodeid == name or item.nodeid.startswith(inside)
    ]
    assert found, f"there is no test {test}"
    return found


def _key(code: CodeType) -> object:
    return code.co_filename, code.co_qualname, code.co_firstlineno, code.co_code


def _different(before: CodeType, after: CodeType) -> Swaps | None:
    """Return the functions that differ, the outermost and those in them.

    ``None`` where something else does, or where one that is alive cannot become the other.
    """
    swaps: Swaps = []
    if _own(before) != _own(after):
        if not before.co_flags & CO_OPTIMIZED or before.co_freevars != after.co_freevars:
            return None
        swaps.append((before, after))
    for inner, become in zip(_inside(before), _inside(after), strict=False):
        found = _different(inner, become) if inner.co_name == become.co_name else None
        if found is not None:
            swaps += found
        elif not swaps:
            return None
    return swaps


def _own(code: CodeType) -> object:
    """What a function does, but for where it stands and what the functions in it do."""
    return (
        code.co_code,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_flags,
        code.co_argcount,
        code.co_kwonlyargcount,
        code.co_exceptiontable,
        [None if isinstance(each, CodeType) else (type(each), each) for each in code.co_consts],
    )


def _inside(code: CodeType) -> list[CodeType]:
    return [each for each in code.co_consts if isinstance(each, CodeType)]


def _move(home: str, copy: str) -> None:
    """Have what is not imported yet, and what lies beside the modules, come from *copy*."""
    sys.path[:] = [copy if each == home else each for each in sys.path]
    os.environ["PYTEST_DEBUG_TEMPROOT"] = f"{copy}.tmp"
    Path(f"{copy}.tmp").mkdir(exist_ok=True)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "holdfast":
            continue
        attributes: Mapping[str, object] = vars(module)
        if "__path__" in attributes:
            module.__path__ = [each.replace(home, copy) for each in module.__path__]
        spec = module.__spec__
        if spec is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations[:] = [
                each.replace(home, copy) for each in spec.submodule_search_locations
            ]
        loader: Any = module.__loader__
        if hasattr(loader, "path"):
            loader.path = loader.path.replace(home, copy)
