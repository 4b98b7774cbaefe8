"""Every example is run by a test, and is found in the index of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
INDEX = ROOT / "examples" / "README.md"


@pytest.fixture(scope="module")
def tests() -> str:
    """What all test files say, but this one."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    return "\n".join(file.read_text() for file in files if file != Path(__file__).resolve())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_run_by_a_test(example: Path, tests: str) -> None:
    name = re.escape(example.stem)
    # As a file, as the module that a server is told, or as an import.
    assert re.search(rf'\b{name}\.py"|"{name}:\w+"|examples(\.| import ){name}\b', tests), (
        f"no test runs {example.name}"
    )


def test_the_index_names_every_example_and_nothing_else() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", INDEX.read_text())
    assert sorted(link for link in links if link.endswith(".py")) == [f.name for f in EXAMPLES]
    for link in links:
        assert (INDEX.parent / link).exists(), link
