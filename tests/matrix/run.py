"""Run cells: a site for each mode and number of processes, an outage after the other at each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.matrix import plan
from tests.matrix.faults import FAULTS
from tests.matrix.site import Site
from tests.matrix.sweep import sweep, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.matrix.sweep import Cell, Result


async def run(
    cells: Iterable[Cell],
    folder: Path,
    *,
    at_once: int = 3,
    tell: Callable[[str], Any] = lambda _: None,
) -> list[Result]:
    """Run *cells* and return what came of each.

    Args:
        folder: an empty one, for logs.
        at_once: how many sites may be at work; most of an outage is waiting.
        tell: hears a line about each outage.
    """
    turns = asyncio.Semaphore(at_once)
    found: list[Result] = []

    async def at_site(mode: Any, processes: int, faults: Mapping[str, Sequence[str]]) -> None:
        async with turns, Site(mode, processes, folder) as site:
            await warm_up(site)
            for fault in sorted(faults, key=list(FAULTS).index):
                results = await sweep(site, fault, faults[fault])
                found.extend(results)
                wrong = sum(bool(result.wrong) for result in results)
                noticed = ", ".join(results[0].noticed)
                tell(f"{fault}, {mode}, {processes}: {wrong} of {len(results)} wrong; {noticed}")

    async with asyncio.TaskGroup() as group:
        for (mode, processes), faults in plan.by_site(cells).items():
            group.create_task(at_site(mode, processes, faults))
    order = {cell: number for number, cell in enumerate(plan.every_cell())}
    return sorted(found, key=lambda result: order[result.cell])
