"""Every guard is needed: without it the test that the table names fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.mutations.run import ROOT
from tests.mutations.table import MUTATIONS

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.testing import RedisServer

# Beside others, on a slow machine, a part takes minutes; it hangs where its subprocess does.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PARTS = 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("part", range(PARTS))
def test_without_its_guard_a_test_fails(part: int, redis: RedisServer, tmp_path: Path) -> None:
    # A measured process would report lines of copies that are gone.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    env["HOLDFAST_TEST_REDIS_URL"] = redis.url
    command = [sys.executable, "-m", "tests.mutations.run", str(tmp_path), str(part), str(PARTS)]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    assert found.pop("") == "passed", "without a mutation the named tests must pass"
    assert len(found) == len(range(part, len(MUTATIONS), PARTS))
    survived = [
        f"{MUTATIONS[int(number)].file}: {MUTATIONS[int(number)].guard!r} was taken away, and "
        f"{MUTATIONS[int(number)].test} {came}"
        for number, came in found.items()
        if came != "failed"
    ]
    assert not survived, "\n".join(survived)
