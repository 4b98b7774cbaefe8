"""The guide to testing, followed by somebody with a store of their own and no configuration."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_suites_run_as_the_guide_says(tmp_path: Path) -> None:
    suites = [block for block in BLOCKS if "class Test" in block]
    assert len(suites) == 2
    for number, block in enumerate(suites):
        (tmp_path / f"test_{number}.py").write_text(block)
    # Plugins that come with what else is installed here take as long to start as the tests.
    plugins = [
        f"-pno:{name}" for name in ("cacheprovider", "schemathesis", "langsmith_plugin", "faker")
    ]
    told = run(tmp_path, "-m", "pytest", "-q", "-W", "error", *plugins)
    passed = re.search(r"(\d+) passed", told)
    assert passed
    assert int(passed[1]) > 70
    assert "skipped" not in told


def test_the_tools_do_what_the_guide_says(tmp_path: Path) -> None:
    tools = [block for block in BLOCKS if "class Test" not in block and "from agent" not in block]
    assert len(tools) == 4
    for block in tools:
        run(tmp_path, "-W", "error", "-c", block)
