"""``python -m tests.matrix.page``: make the tables of docs/production/outages/matrix.md anew.

From the files that a run of every cell has left, and from nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.matrix import results
from tests.matrix.actions import ACTIONS
from tests.matrix.faults import FAULTS
from tests.matrix.plan import MODES, PROCESSES
from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = ROOT / "docs" / "production" / "outages" / "matrix.md"
BEGIN, END = "<!-- made by python -m tests.matrix.page -->", "<!-- to here -->"
_MAIN = {
    "anonymous": "free",
    "known-read": "read",
    "known-write": "write",
    "login": "login",
    "logout": "logout",
    "rotate": "rotate",
    "sse": "reader, late",
    "websocket": "reader, late",
    "publish": "emit",
    "oauth-start": "issue",
    "oauth-callback": "consume",
}
"""Of each action the request that its column is about."""


def tables(records: Sequence[dict[str, Any]]) -> str:
    """Return the tables, one for each mode and number of processes."""
    cells = {
        (record["mode"], record["processes"], record["fault"], record["action"]): record
        for record in records
    }
    wrong = sum(bool(record["wrong"]) for record in records)
    commits = ", ".join(sorted({f"`{record['commit']}`" for record in records}))
    slowest = max(record["slowest"] for record in records)
    told = f"{len(records)} cells, {wrong} with a violation; the slowest answer of all came after"
    parts = [f"{told} {slowest:.1f} s, on a busy machine. Commit {commits}."]
    for mode in MODES:
        for processes in PROCESSES:
            plural = "process" if processes == 1 else "processes"
            parts += [f"### `{mode}`, {processes} {plural}", _table(cells, mode, processes)]
    return "\n\n".join(parts)


def _table(cells: dict[Any, dict[str, Any]], mode: str, processes: int) -> str:
    names = list(ACTIONS)
    rows = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for fault in FAULTS:
        shown = [_shown(cells[mode, processes, fault, name]) for name in names]
        rows.append(f"| **{fault}** | {' | '.join(shown)} |")
    return "\n".join(rows)


def _shown(record: dict[str, Any]) -> str:
    statuses = record["statuses"].get(_MAIN[record["action"]], [])
    parts = [", ".join(map(str, statuses))]
    if record["lost"]:
        parts.append(f"lost: {record['lost']}")
    if record["wrong"]:
        parts.append(f"**wrong: {len(record['wrong'])}**")
    return "; ".join(part for part in parts if part)


def what_is_done() -> str:
    """Return the list of faults, in words."""
    return "\n".join(f"| **{name}** | {fault.words} |" for name, fault in FAULTS.items())


def body() -> str:
    """Return what belongs between the marks of the page."""
    head = f"| fault | what is done |\n|---|---|\n{what_is_done()}"
    return f"{BEGIN}\n\n{head}\n\n{tables(results.read())}\n\n{END}"


def replaced(page: str) -> str:
    """Return *page* with what is between its marks made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{body()}{after}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
