"""``python -m tests.matrix``: run cells of the matrix of outages, and keep what came of them.

``--all`` runs every cell and writes the files below docs/production/outages, from which the page is
made; ``--share 0.1 --seed 7`` runs a tenth, chosen by the seed; ``--cell`` names cells such as
``frozen/login/local/3``, where ``*`` stands for any.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.matrix import plan, results
from tests.matrix.run import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.1, help="of all outages, 0 to 1")
    parser.add_argument("--cell", action="append", default=[], help="fault/action/mode/processes")
    parser.add_argument("--all", action="store_true", help="every cell, and keep the results")
    parser.add_argument("--at-once", type=int, default=3, help="sites at work at the same time")
    chosen = parser.parse_args()
    if chosen.all:
        cells = plan.every_cell()
    elif chosen.cell:
        cells = [cell for pattern in chosen.cell for cell in plan.matching(pattern)]
    else:
        cells = plan.a_share(chosen.share, chosen.seed)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run(cells, Path(folder), at_once=chosen.at_once, tell=print))
    for result in found:
        if result.lost:
            print(f"{result.cell}: Redis lost {result.lost}")
    wrong = [result for result in found if result.wrong]
    for result in wrong:
        print(f"\n{result.cell}", *result.wrong, sep="\n  ")
    seconds = time.monotonic() - begun
    print(f"\n{len(found)} cells, {len(wrong)} with violations, in {seconds:.0f} s")
    if chosen.all:
        results.write([result.record() for result in found])
    results.remember_failed([str(result.cell) for result in wrong])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
