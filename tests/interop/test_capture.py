"""Endpoints that others wrote, captured by ``holdfast serve``, read by Chromium and by clients."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import openai
import pytest
from tests.support.sdist import unpacked

from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

EVENTS = [f"Event {number}" for number in range(10)]
URL = "/readme/events"


@pytest.fixture
def site(serve: Serve, redis: RedisServer, key_prefix: str) -> ServerProcess:
    return served(serve, redis, key_prefix)


def served(serve: Serve, redis: RedisServer, prefix: str, **more: str) -> ServerProcess:
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": prefix,
        "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
        "HOLDFAST_STREAM_CAPTURE": "/readme,/fastapi,/v1",
        "HOLDFAST_STREAM_ACCESS": "session",
        **more,
    }
    command = ["-m", "holdfast", "serve", "tests.interop.captured_site:app", "--port", "{port}"]
    return serve(command, env=env)


def calls(site: ServerProcess) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"{site.url}/calls").json()
    return found


class Page:
    """The page in one tab."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        driver.get(url)

    def value(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def wait(self, expression: str) -> None:
        deadline = time.monotonic() + 30
        while not self.value(expression):
            assert time.monotonic() < deadline, f"{expression}; {self.value('[seen, opened]')}"
            time.sleep(0.02)


def go(site: ServerProcess, events: int) -> None:
    """Let the example say so many events more."""
    httpx.post(f"{site.url}/go/{events}").raise_for_status()


@pytest.mark.browser
def test_a_page_that_is_cut_five_times_has_every_event_once(
    browser: Chrome, site: ServerProcess
) -> None:
    with FaultProxy.threaded("127.0.0.1", site.port) as proxy:
        page = Page(browser, f"http://127.0.0.1:{proxy.port}/?read={URL}")
        for cut in range(5):
            page.wait(f"opened === {cut + 1} && seen.length === {2 * cut + 1}")
            proxy.cut()
            # One is said while it is away, or is on its way; the other when it is back.
            go(site, 1)
            page.wait(f"opened === {cut + 2} && seen.length === {2 * cut + 2}")
            go(site, 1)
        page.wait("over")
        assert page.value("seen") == EVENTS
    assert calls(site) == {URL: 1}


@pytest.mark.browser
def test_a_refreshed_page_of_a_session_has_every_event_once(
    browser: Chrome, site: ServerProcess
) -> None:
    browser.get(f"{site.url}/login/ada")
    page = Page(browser, f"{site.url}/?read={URL}")
    for events in (1, 3, 5):
        page.wait(f"seen.length === {events}")
        browser.refresh()
        go(site, 2)
    go(site, 10)
    page.wait("over")
    assert page.value("seen") == EVENTS
    assert calls(site) == {URL: 1}


@pytest.mark.browser
def test_another_user_sees_nothing_of_it_by_address_or_by_id(
    browser: Chrome, site: ServerProcess
) -> None:
    browser.get(f"{site.url}/login/ada")
    page = Page(browser, f"{site.url}/?read={URL}")
    go(site, 1)
    page.wait("seen.length === 2")
    stolen, seen = page.value("last"), page.value("seen")
    browser.delete_all_cookies()
    browser.get(f"{site.url}/login/eve")
    page = Page(browser, f"{site.url}/?read={URL}")
    page.wait("seen.length === 1")
    assert calls(site) == {URL: 2}
    first = browser.execute_async_script(FETCHED, URL, stolen)
    # From the start, not after what was stolen.
    assert f"data: {seen[0]}" in first.split("\n")
    assert calls(site) == {URL: 3}


FETCHED = """
const [url, id, done] = arguments;
fetch(url, { headers: { "Last-Event-ID": id } }).then(async (answer) => {
  const reader = answer.body.getReader();
  let text = "";
  while (!text.includes("data:")) text += new TextDecoder().decode((await reader.read()).value);
  reader.cancel();
  done(text);
}, done);
"""


EXAMPLES = {
    "tutorial001/items/stream": [],
    "tutorial001/items/stream-no-async": [],
    "tutorial002/items/stream": ["event: item_update", "retry: 5000"],
    "tutorial003/logs/stream": ["data: 2025-01-01 WARN  High memory usage detected"],
    "tutorial004/items/stream": [],
}


def test_examples_of_fastapi_are_resumed_event_by_event(
    serve: Serve, redis: RedisServer, key_prefix: str, tmp_path: Path
) -> None:
    where = unpacked("fastapi", tmp_path, below="docs_src/server_sent_events")
    examples = where / "docs_src" / "server_sent_events"
    site = served(serve, redis, key_prefix, FASTAPI_EXAMPLES=str(examples))
    with httpx.Client(base_url=f"{site.url}/fastapi", timeout=30) as client:
        for path, said in EXAMPLES.items():
            resume_event_by_event(client, path, said)
        assert calls(site) == {f"/fastapi/{path}": 1 for path in EXAMPLES}
        # One resumes by itself, from an id of its own, and still does.
        answer = client.get("tutorial004/items/stream", headers={"last-event-id": "1"})
        assert data_of(answer.text) == ['data: {"name":"Meeseeks Box","price":49.99}']
        answer = client.post("tutorial005/chat/stream", json={"text": "a b"})
        assert data_of(answer.text) == ['data: "a"', 'data: "b"', "data: [DONE]"]
        assert answer.headers["holdfast-run"]


def resume_event_by_event(client: httpx.Client, path: str, said: list[str]) -> None:
    whole = client.get(path).text
    lines = data_of(whole)
    ids = [line[4:] for line in whole.split("\n") if line.startswith("id: ")]
    assert len(lines) == 3
    assert all(line in whole.split("\n") for line in said)
    for number in range(3):
        rest = client.get(path, headers={"last-event-id": ids[number]})
        assert data_of(rest.text) == lines[number + 1 :]
    assert client.get(path, headers={"last-event-id": ids[-1]}).status_code == 204


def data_of(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("data: ")]


def test_a_completion_of_openais_client_is_whole_and_can_be_read_again(
    serve: Serve, redis: RedisServer, key_prefix: str
) -> None:
    # There is a keep-alive between any two words.
    site = served(serve, redis, key_prefix, HOLDFAST_STREAM_HEARTBEAT="0.05")
    with httpx2.Client() as web:
        web.get(f"{site.url}/login/ada")
        client = openai.OpenAI(base_url=f"{site.url}/v1", api_key="none", http_client=web)
        answer = client.chat.completions.with_raw_response.create(
            model="kelp", messages=[{"role": "user", "content": "hold on"}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer.parse())
        assert text.split()[:3] == ["Kelp", "holds", "on"]
        link = answer.headers["link"].partition(">")[0].removeprefix("<")
        again = web.get(f"{site.url}{link}").text
        data = [line for line in again.split("\n") if line.startswith("data: ")]
        assert len(data) == len(text.split()) + 2
        assert data[-2:] == ['data: "[DONE]"', 'data: {"output":null}']
        # To somebody else there is no such run.
        assert httpx.get(f"{site.url}{link}").status_code == 401
    assert calls(site) == {"completions": 1}
