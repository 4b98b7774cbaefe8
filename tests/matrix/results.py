"""What is kept of a run: one file of JSON lines for each mode, and the cells that ever failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FOLDER = ROOT / "docs" / "production" / "outages"
FAILED = ROOT / "tests" / "matrix" / "failed.txt"


def write(records: Sequence[dict[str, Any]]) -> None:
    """Replace the files by *records*, which are of every cell."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for mode in sorted({record["mode"] for record in records}):
        lines = [json.dumps(record) for record in records if record["mode"] == mode]
        (FOLDER / f"{mode}.jsonl").write_text("\n".join(lines) + "\n")


def read() -> list[dict[str, Any]]:
    """Return what was kept of the last run of every cell."""
    return [
        json.loads(line)
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def failed() -> list[str]:
    """Return the cells that ever failed: CI runs them each time."""
    lines = FAILED.read_text().splitlines() if FAILED.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


def remember_failed(cells: Iterable[str]) -> None:
    """Add cells to those that ever failed."""
    known = failed()
    new = [cell for cell in dict.fromkeys(cells) if cell not in known]
    if new:
        head = "# The cells of the matrix that ever failed: they are run each time.\n"
        FAILED.write_text(head + "\n".join([*known, *new]) + "\n")
