"""The short form of the chaos; ``python -m tests.chaos`` is the long one, of ten minutes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.chaos.mutants import MUTANTS, hunt, is_caught
from tests.chaos.soak import HASTE, soak
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
async def test_chaos_violates_nothing_and_really_bites(tmp_path: Path) -> None:
    pace = replace(HASTE, runs=2)
    outcome = await soak(8, tmp_path, seed=3, sites=[("local", 1), ("readonly", 2)], pace=pace)
    assert outcome.wrong == []
    assert outcome.bit >= 1
    assert outcome.acknowledged > 100
    assert outcome.events > 100
    assert outcome.lives > 10


@pytest.mark.slow
async def test_the_checker_finds_what_is_wrong_without_a_guard(tmp_path: Path) -> None:
    (mutant,) = [each for each in MUTANTS if "before it was stored" in each.words]
    outcome = await hunt(mutant, tmp_path, seconds=6)
    assert outcome is not None
    assert is_caught(mutant, outcome), str(outcome)


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_the_guard_that_a_mutant_lacks_is_there(number: int) -> None:
    row = MUTANTS[number].row
    assert (ROOT / "src" / "holdfast" / row.file).read_text().count(row.guard) == 1
