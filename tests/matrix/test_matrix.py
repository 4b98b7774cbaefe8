"""A tenth of the matrix, by a seed, and all that ever failed; and the page that tells of all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.matrix import page, plan, results
from tests.matrix.actions import ACTIONS
from tests.matrix.faults import FAULTS
from tests.matrix.run import run

if TYPE_CHECKING:
    from pathlib import Path

SEED = int(os.environ.get("HOLDFAST_TEST_MATRIX_SEED", "5"))


@pytest.mark.slow
async def test_no_outage_of_a_tenth_violates_anything(tmp_path: Path) -> None:
    chosen = [*plan.a_share(0.1, SEED), *map(plan.named, results.failed())]
    told: list[str] = []
    found = await run(chosen, tmp_path, tell=told.append)
    assert len(found) == len(set(chosen))
    assert {str(each.cell): each.wrong for each in found if each.wrong} == {}
    # A fault that nobody has noticed shows nothing; a connection that ends early may be made anew.
    unnoticed = {each.cell.fault for each in found if not each.noticed}
    assert unnoticed <= {"half-closed"}, told
    for each in found:
        assert set(each.noticed) <= FAULTS[each.cell.fault].reasons, told


def test_a_seed_chooses_the_same_tenth_and_another_one_another() -> None:
    tenth = plan.a_share(0.1, 7)
    assert tenth == plan.a_share(0.1, 7)
    assert tenth != plan.a_share(0.1, 8)
    assert len(tenth) == 8 * len(ACTIONS)
    assert {cell.mode for cell in tenth} == set(plan.MODES)
    assert plan.a_share(1, 7) == plan.every_cell()


def test_there_is_a_cell_for_every_fault_action_mode_and_number() -> None:
    cells = plan.every_cell()
    assert len(set(cells)) == len(cells) == 13 * 11 * 3 * 2
    some = cells[:: len(cells) // 10]
    assert [plan.named(str(cell)) for cell in some] == some


def test_a_cell_that_cannot_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no cell is called"):
        plan.matching("frozen/sleep/*/*")


def test_the_files_hold_every_cell_and_no_violation() -> None:
    kept = results.read()
    names = [f"{r['fault']}/{r['action']}/{r['mode']}/{r['processes']}" for r in kept]
    assert sorted(names) == sorted(map(str, plan.every_cell()))
    assert [name for name, record in zip(names, kept, strict=True) if record["wrong"]] == []


def test_the_page_is_made_of_the_files() -> None:
    text = page.PAGE.read_text()
    assert page.replaced(text) == text, "python -m tests.matrix.page makes it anew"
