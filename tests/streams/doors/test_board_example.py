"""The example with many runs over one connection, as its page uses it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.support.process import ROOT

from holdfast import StreamEvent
from holdfast.client import End, follow_sync, stop_sync

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from tests.conftest import Serve

EXAMPLE = ROOT / "examples" / "board.py"


def test_its_jobs_come_over_one_connection_and_one_is_stopped(serve: Serve) -> None:
    url = serve([str(EXAMPLE)], env={"SECONDS_PER_STEP": "0.1"}).url
    assert "runs: [...jobs]" in httpx.get(url).text
    token = httpx.get(f"{url}/boards/b/token").text
    stream = f"{url}/streams/events/stream"
    jobs = [httpx.post(f"{url}/boards/b/jobs").json()["run"] for _ in range(2)]
    assert stop_sync(stream, jobs[1], token=token)
    jobs.append(httpx.post(f"{url}/boards/b/jobs").json()["run"])
    items = list(follow_sync(stream, runs=jobs, token=token))
    for job in jobs:
        *events, end = [item for item in items if item.run_id == job]
        assert end == End(job)
        kinds = [event.type for event in events if isinstance(event, StreamEvent)]
        if job == jobs[1]:
            assert kinds[-1] == "run_stopped"
        else:
            assert kinds == ["progress"] * 20 + ["workflow_complete"]


@pytest.mark.browser
@pytest.mark.slow
def test_its_page_starts_jobs_stops_one_and_survives_a_refresh(
    browser: Chrome, serve: Serve
) -> None:
    browser.get(serve([str(EXAMPLE)], env={"SECONDS_PER_STEP": "0.2"}).url)

    def wait(pattern: str) -> None:
        deadline = time.monotonic() + 30
        rows = "[...document.querySelectorAll('li')].map((row) => row.innerText).join('|')"
        while not re.fullmatch(pattern, shown := browser.execute_script(f"return {rows}")):
            assert time.monotonic() < deadline, f"{shown!r} is not {pattern!r}"
            time.sleep(0.02)

    working = r"\d+ of 20 Stop"
    for pattern in (working, rf"{working}\|{working}"):
        browser.execute_script("document.querySelector('#start').click()")
        wait(pattern)
    browser.execute_script("document.querySelector('li button').click()")
    wait(rf"run_stopped ?\|{working}")
    browser.refresh()
    wait(rf"run_stopped ?\|{working}")
    wait(r"run_stopped ?\|workflow_complete ?")
