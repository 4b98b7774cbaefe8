"""What adopting holdfast changes in an application, as the page of the frameworks shows it.

The diffs are of real files, examples/before_after/. To write the page anew:

    python -m tests.frameworks.before_after
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "examples" / "before_after"
PAGE = ROOT / "docs" / "frameworks" / "index.md"
FRAMEWORKS = sorted(file.stem.removesuffix("_before") for file in FILES.glob("*_before.py"))


def difference(framework: str) -> list[str]:
    """Return the unified diff of a framework's two files, without its heads."""
    before, after = (
        (FILES / f"{framework}_{when}.py").read_text().splitlines() for when in ("before", "after")
    )
    lines = list(difflib.unified_diff(before, after, n=1, lineterm=""))[3:]
    # An empty line stands for what is between two changes, and for nothing else.
    return ["" if line.startswith("@@") else line for line in lines if line != " "]


def changed(framework: str) -> list[str]:
    """Return the lines that went and the lines that came."""
    return [line for line in difference(framework) if line.startswith(("-", "+"))]


def written(page: str) -> str:
    """Return *page* with the diffs as they are now."""

    def section(found: re.Match[str]) -> str:
        diff = "\n".join(difference(found["framework"]))
        return f"{found['begin']}\n```diff\n{diff}\n```\n{found['end']}"

    between = r"(?P<begin><!-- changed: (?P<framework>\w+) -->)\n.*?(?P<end><!-- until here -->)"
    return re.sub(between, section, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
