"""The example that publishes over HTTP: each event once, though an answer is lost on the way."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from tests.conftest import Serve

# Three processes that start one after the other.
pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "publish_over_http.py"
TOKEN = "a-publish-token-of-a-worker"
ENV = {"HOLDFAST_STREAM_ACCESS": "open", "HOLDFAST_STREAM_PUBLISH_TOKEN": TOKEN}


async def count(http: httpx.AsyncClient, url: str) -> int:
    answer = await http.get(f"{url}/streams/runs/r%2F1/events")
    return len(answer.json().get("events", ()))


async def test_each_event_is_written_once_though_an_answer_is_lost(serve: Serve) -> None:
    server = serve("tests.streams.served:app", env=ENV)
    host, port = server.url.removeprefix("http://").split(":")
    async with httpx.AsyncClient() as http, FaultProxy(host, int(port)) as proxy:
        proxy.blackhole("replies")
        url = f"http://{host}:{proxy.port}/streams"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(EXAMPLE), url, "r/1"),
            env={"HOLDFAST_STREAM_PUBLISH_TOKEN": TOKEN},
        )
        async with asyncio.timeout(20):
            while await count(http, server.url) < 10:
                await asyncio.sleep(0.01)
        proxy.cut()
        proxy.heal()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    text = (
        await asyncio.to_thread(httpx.get, f"{server.url}/streams/runs/r%2F1/events/stream")
    ).text
    rows = [
        json.loads(data)["n"] for data in re.findall(r'^data: (\{"n":\d+\})$', text, re.MULTILINE)
    ]
    assert rows == [*range(100)]
    assert text.count("event: workflow_complete") == 1
