"""Every row of the table names a guard that stands where it says, and a test that is there."""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING

import pytest
from tests.mutations.run import ROOT
from tests.mutations.table import MUTATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_every_guard_stands_once_in_its_file_and_is_changed() -> None:
    wrong = []
    for row in MUTATIONS:
        file = ROOT / "src" / "holdfast" / row.file
        times = file.read_text().count(row.guard) if file.is_file() else 0
        if times != 1 or row.guard == row.instead:
            wrong.append(f"{row.file}: {row.guard!r} stands there {times} times")
    assert not wrong, "\n".join(wrong)


def test_every_test_that_is_named_is_there() -> None:
    named = sorted({row.test for row in MUTATIONS})
    missing = [test for test in named if not is_there(test)]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    "name",
    [
        "mutations/test_gone.py::test_every_test_that_is_named_is_there",
        "mutations/test_table.py::test_gone",
        "mutations/test_table.py::is_there",
        "sessions/test_stores.py::test_an_unknown_id_is_absent_and_loading_it_creates_nothing",
        "sessions/test_stores.py::TestGone::test_a",
        "sessions/test_stores.py::TestRedisBeside::test_gone",
    ],
)
def test_one_that_is_not_there_is_found_out(name: str) -> None:
    assert not is_there(name)


def is_there(test: str) -> bool:
    """Say whether a test has this name, below ``tests/``, by what is written there."""
    name, *within = test.partition("[")[0].split("::")
    file = ROOT / "tests" / name
    if not file.is_file() or not within:
        return file.is_file()
    *classes, function = within
    return function.startswith("test") and function in _functions(file, *classes)


@cache
def _functions(file: Path, *classes: str) -> frozenset[str]:
    scopes = _and_bases(file, *classes) if classes else [_parsed(file)]
    return frozenset(
        each.name
        for scope in scopes
        for each in scope.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def _and_bases(file: Path, name: str) -> Iterator[ast.ClassDef]:
    """Yield the class that a file knows by this name, and those that it inherits from."""
    for each in ast.walk(_parsed(file)):
        if isinstance(each, ast.ClassDef) and each.name == name:
            yield each
            for base in each.bases:
                if isinstance(base, ast.Name):
                    yield from _and_bases(file, base.id)
        elif isinstance(each, ast.ImportFrom) and name in {alias.name for alias in each.names}:
            home = _home(each.module or "")
            if home is not None:
                yield from _and_bases(home, name)


def _home(module: str) -> Path | None:
    """Return the file of a module that is ours."""
    for top in (ROOT, ROOT / "src"):
        path = top.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())
