"""A page of another origin, in a browser that holds the session: it stops and writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from tests.conftest import Serve

pytestmark = [pytest.mark.browser, pytest.mark.slow]
APP = "tests.interop.owned_run:app"
ENV = {
    "HOLDFAST_STREAM_ACCESS": "session",
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
}
STOP = """
const done = arguments[0];
fetch("/streams/runs/mine/stop", { method: "POST" }).then((answer) => done(answer.status), done);
"""


def state(browser: Chrome, url: str) -> Any:
    return browser.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0]).then((a) => a.json()).then(done, done);",
        f"{url}/state",
    )


def test_a_foreign_page_stops_and_writes_nothing_and_our_own_stops(
    browser: Chrome, serve: Serve
) -> None:
    url, elsewhere = serve(APP, env=ENV).url, serve(APP, env=ENV).url
    browser.get(f"{url}/login")
    foreign = f"{elsewhere}/foreign?target={url}/streams"
    browser.get(foreign)
    # Another port is another origin of the same site: the cookie comes along all the same.
    answers = browser.execute_async_script("window.tries().then(arguments[0])")
    assert answers == [0, "TypeError", 0, "TypeError", "TypeError"]
    for form in ("stop", "publish"):
        browser.get(foreign)
        browser.execute_script(f"document.getElementById('{form}').submit()")
        WebDriverWait(browser, 10).until(lambda page: url in page.current_url)
        assert any(code in browser.page_source for code in ("UNAUTHORIZED", "FORBIDDEN"))
    browser.get(f"{url}/login")
    assert state(browser, url) == {"events": 2, "stopping": False}
    assert browser.execute_async_script(STOP) == 202
    assert state(browser, url)["stopping"] is True
