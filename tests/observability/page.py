"""Writes what docs/production/observability.md has from the code.

``python -m tests.observability.page``
"""

from __future__ import annotations

from tests.support.process import ROOT

from holdfast.metrics.table import markdown

PAGE = ROOT / "docs" / "production" / "observability.md"
BEGIN, END = "<!-- metrics: begin -->\n", "<!-- metrics: end -->\n"


def written(text: str) -> str:
    """Return *text* with the table as the code has it now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{markdown()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
