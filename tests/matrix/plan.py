"""Which cells there are, and which are run: by name, by a seed, or because they failed once.

Pure: the same arguments choose the same cells on any machine.
"""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Literal, get_args

from tests.matrix.actions import ACTIONS
from tests.matrix.faults import FAULTS
from tests.matrix.history import Mode
from tests.matrix.sweep import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable

MODES: tuple[Mode, ...] = get_args(Mode)
PROCESSES: tuple[Literal[1, 3], ...] = (1, 3)


def every_cell() -> list[Cell]:
    """Return all cells; each can exist."""
    return [
        Cell(fault, action, mode, processes)
        for mode in MODES
        for processes in PROCESSES
        for fault in FAULTS
        for action in ACTIONS
    ]


def matching(pattern: str) -> list[Cell]:
    """Return the cells whose name matches, such as ``frozen/*/local/3``.

    Raises:
        ValueError: none does.
    """
    found = [cell for cell in every_cell() if fnmatchcase(str(cell), pattern)]
    if not found:
        raise ValueError(f"no cell is called {pattern}: fault/action/mode/processes")
    return found


def a_share(share: float, seed: int) -> list[Cell]:
    """Return a share of all cells, chosen by the seed: whole outages, for they are what takes time.

    They are spread over one site of each mode, since starting one takes time too; a share of more
    than these have is spread over all.
    """
    chance = random.Random(seed)
    sweeps = [key for key, _ in groupby(every_cell(), sweep_of)]
    wanted = max(1, round(share * len(sweeps)))
    sites: list[tuple[str, int]] = [(mode, chance.choice(PROCESSES)) for mode in MODES]
    if wanted > len(sites) * len(FAULTS):
        sites = [(mode, processes) for mode in MODES for processes in PROCESSES]
    chance.shuffle(sites)
    chosen: set[tuple[str, str, int]] = set()
    for turn in range(wanted):
        mode, processes = sites[turn % len(sites)]
        left = [key for key in sweeps if key[1:] == (mode, processes) and key not in chosen]
        chosen.add(chance.choice(left))
    return [cell for cell in every_cell() if sweep_of(cell) in chosen]


def sweep_of(cell: Cell) -> tuple[str, str, int]:
    """Return what the cells of one outage have in common."""
    return cell.fault, cell.mode, cell.processes


def by_site(cells: Iterable[Cell]) -> dict[tuple[str, int], dict[str, list[str]]]:
    """Return the actions of each fault, for each site."""
    found: dict[tuple[str, int], dict[str, list[str]]] = {}
    for cell in dict.fromkeys(cells):
        faults = found.setdefault((cell.mode, cell.processes), {})
        faults.setdefault(cell.fault, []).append(cell.action)
    return found


def named(name: str) -> Cell:
    """Return the cell of that name.

    Raises:
        ValueError: there is none.
    """
    (cell,) = matching(name)
    return cell
