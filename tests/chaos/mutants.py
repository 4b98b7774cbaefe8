"""``python -m tests.chaos.mutants``: take one guard away at a time, and have the soak notice.

A checker that finds nothing proves nothing until it has been shown to find what is there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.soak import HASTE, Outcome, soak
from tests.mutations.table import Mutation
from tests.mutations.trials import mutated
from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.matrix.history import Mode

SECONDS = 20.0
_TEST = "chaos"


@dataclass(frozen=True)
class Mutant:
    """A guard that is taken away.

    Attributes:
        words: what it guards.
        invariant: what is violated without it.
        row: the guard, and what stands there instead.
        sites: where it shows.
        faults: with which.
    """

    words: str
    invariant: str
    row: Mutation
    sites: tuple[tuple[Mode, int], ...] = (("local", 1),)
    faults: tuple[str, ...] = ("refused", "noauth", "oom")


MUTANTS = (
    Mutant(
        "unavailable is not absent",
        "I1",
        Mutation(
            "sessions/outage/known.py",
            'raise SessionUnavailable("the session is not known here while Redis is away")',
            "return Missing.ABSENT",
            _TEST,
        ),
        sites=(("readonly", 2),),
    ),
    Mutant(
        "a logout is journalled",
        "I2",
        Mutation(
            "sessions/outage/journal.py",
            'self._put(Entry(id_hash, "", "", None))',
            "self._entries.pop(id_hash, None)",
            _TEST,
        ),
    ),
    Mutant(
        "what waits of a session is written",
        "I3",
        Mutation(
            "sessions/outage/entry.py",
            "return self._merging(self.record, calls, now, lost=lost)",
            "return ()",
            _TEST,
        ),
    ),
    Mutant(
        "a retry is known by its number",
        "I3",
        Mutation(
            "link/scripts/stream_publish.lua",
            "if first_seq > 0 and first_seq <= last_seq then",
            "if false then",
            _TEST,
        ),
        faults=("lost-replies", "latency"),
    ),
    Mutant(
        "a reader is not told twice what it saw before it was stored",
        "I3",
        Mutation(
            "streams/cursor.py",
            "return producer is not None and 0 < seq <= self.seen.get(producer, 0)",
            "return False",
            _TEST,
        ),
    ),
)


async def hunt(mutant: Mutant, folder: Path, seconds: float = SECONDS) -> Outcome | None:
    """Soak a copy without the guard; ``None`` where the guard is not found exactly once."""
    copy = folder / "copy"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "holdfast", copy / "holdfast", ignore=ignored)
    path = os.pathsep.join([str(copy), str(ROOT)])
    with mutated(copy, mutant.row) as found:
        if not found:
            return None
        env = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        pace = replace(HASTE, faults=mutant.faults)
        return await soak(seconds, folder, sites=mutant.sites, env=env, pace=pace)


def is_caught(mutant: Mutant, outcome: Outcome) -> bool:
    """Whether the checker found what is wrong with it, and not another thing."""
    return any(f": {mutant.invariant}:" in text for text in outcome.wrong)


async def _all(mutants: Sequence[Mutant], seconds: float) -> int:
    escaped = 0
    for mutant in mutants:
        with tempfile.TemporaryDirectory() as folder:
            outcome = await hunt(mutant, Path(folder), seconds)
        if outcome is None:
            came = "STALE"
        else:
            came = "caught" if is_caught(mutant, outcome) else "ESCAPED"
            came += f": {len(outcome.wrong)} violations, {outcome.bit} faults bit"
        escaped += not came.startswith("caught")
        print(f"{mutant.words} ({mutant.invariant}): {came}", flush=True)
        for text in outcome.wrong[:2] if outcome else []:
            print(f"    {text}")
    return escaped


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each")
    return 1 if asyncio.run(_all(MUTANTS, parser.parse_args().seconds)) else 0


if __name__ == "__main__":
    sys.exit(main())
