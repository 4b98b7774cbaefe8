"""The fixtures work in somebody else's project."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONFTEST = 'pytest_plugins = ["holdfast.testing.fixtures"]\n'
TEST = """
import asyncio
import pytest
from holdfast import Settings
from holdfast.errors import RedisUnavailable
from holdfast.link import Link

def test_an_outage(holdfast_redis, holdfast_proxy):
    async def scenario():
        link = Link(Settings(redis_url=holdfast_proxy.url, redis_timeout=5))
        try:
            await link.execute("SET", "a", 1)
            holdfast_proxy.refuse()
            with pytest.raises(RedisUnavailable):
                await link.execute("GET", "a")
        finally:
            await link.aclose()
    asyncio.run(scenario())
    assert holdfast_redis.execute("GET", "a") == b"1"
"""


def test_a_project_uses_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_theirs.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    # The plugins that are installed beside it here would be most of the time.
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
