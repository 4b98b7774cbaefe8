"""The example with a worker, as its page uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.support.process import ROOT

from holdfast import StreamEvent
from holdfast.client import follow_sync

if TYPE_CHECKING:
    from tests.conftest import Serve

    from holdfast.testing import RedisServer

EXAMPLE = ROOT / "examples" / "worker.py"


@pytest.fixture
def url(serve: Serve, redis: RedisServer, key_prefix: str) -> str:
    env = {
        "HOLDFAST_SECRET_KEY": "a key of more than sixteen characters",
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
    }
    return serve([str(EXAMPLE)], env=env).url


def test_a_job_of_another_process_is_shown_and_stopped(url: str) -> None:
    assert "/jobs" in httpx.get(url).text
    job = httpx.post(f"{url}/jobs").json()
    headers = {"Authorization": f"Bearer {job['token']}"}
    events: list[StreamEvent] = []
    stopped = datetime.max.replace(tzinfo=UTC)
    for item in follow_sync(f"{url}{job['url']}/events/stream", token=job["token"]):
        events += [item] if isinstance(item, StreamEvent) else []
        if len(events) == 2:
            assert httpx.post(f"{url}{job['url']}/stop", headers=headers).status_code == 202
            stopped = datetime.now(UTC)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["word", "word"]
    assert kinds[-1] == "run_stopped"
    assert len([event for event in events if event.created_at > stopped]) <= 4


def test_without_redis_it_says_what_is_missing() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "HOLDFAST_REDIS_URL" in done.stderr
