"""The fixtures do what they promise, since every other test rests on them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from tests.conftest import Serve

APP = "tests.support.app_for_harness:app"


def test_the_machines_configuration_is_not_seen() -> None:
    seen = [name for name in os.environ if name.startswith("HOLDFAST_")]
    patient = ["HOLDFAST_REDIS_TIMEOUT"]
    assert [name for name in seen if not name.startswith("HOLDFAST_TEST_")] == patient
    assert "REDIS_URL" not in os.environ


def test_a_server_gets_its_variables_and_comes_back_on_its_port(serve: Serve) -> None:
    server = serve(APP, env={"HOLDFAST_APP": "one"}, args=["--no-access-log"])
    assert "<title>one</title>" in httpx.get(server.url).text
    first = server.pid
    server.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
    server.start()
    assert server.pid != first
    assert str(server.pid) in httpx.get(server.url).text
    assert server.stop() in {0, -signal.SIGTERM}
    assert "Uvicorn running on" in server.log()


def test_a_file_and_a_bare_command_can_be_served(serve: Serve) -> None:
    path = Path(__file__).parent / "support" / "app_for_harness.py"
    assert httpx.get(serve(path).url).status_code == 200
    command = ["-m", "http.server", "--bind", "127.0.0.1", "{port}"]
    assert httpx.get(serve(command).url).status_code == 200


def test_a_server_that_cannot_start_is_told_with_its_log(serve: Serve) -> None:
    with pytest.raises(AssertionError, match="Could not import module"):
        serve("no_such_module:app")
    server = serve("no_such_module:app", wait=False)
    assert server.wait() != 0
    server.await_log("no_such_module")


@pytest.mark.browser
def test_the_browser_shows_a_page(browser: Chrome, serve: Serve) -> None:
    browser.get(serve(APP).url)
    assert browser.title == "none"


async def test_async_tests_run_on_asyncio() -> None:
    assert sys.modules["asyncio"].get_running_loop().is_running()
