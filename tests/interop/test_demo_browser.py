"""The demo in a real Chromium: refreshed, cut off, opened twice, moved between servers.

What is proved is read from the page itself: the numbers that it prints beside the events.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.testing import FaultProxy, redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver import Chrome
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.browser

APP = "holdfast.demo:create_app"
KEY = "a secret key that only these tests have"
TRANSPORTS = ["sse", "ws"]
DOCS_IMAGES = Path(__file__).parents[2] / "docs" / "images"


class DemoPage:
    """The page in one tab, driven as a person would and read as it stands there."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def log_in(self, query: str = "") -> None:
        self.driver.get(f"{self.url}/{query}")
        self.wait("!document.getElementById('welcome').hidden", "the login form")
        self.script("document.getElementById('name').value = 'Ada'")
        self.click("#login button")
        self.wait("document.querySelector('.task')", "the desk")

    def start(self) -> str:
        self.click(".task")
        self.wait("location.hash.length > 1", "the run")
        return str(self.script("return location.hash.slice(1)"))

    def switch_to(self, transport: str) -> None:
        self.script(f"document.querySelector('input[value={transport}]').click()")

    def click(self, selector: str) -> None:
        self.script("document.querySelector(arguments[0]).click()", selector)

    def script(self, source: str, *args: object) -> Any:
        return self.driver.execute_script(source, *args)

    def wait(self, expression: str, what: str, seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not self.script(f"return Boolean({expression})"):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come: {self.state}, {self.delivery}")
            time.sleep(0.02)

    def wait_past(self, number: int) -> None:
        """Wait until the page shows more than so many events."""
        self.wait(f"document.querySelectorAll('#log-rows tr').length > {number}", f"event {number}")

    def wait_for_end(self) -> None:
        self.wait("document.getElementById('state').dataset.state === 'ended'", "the end")
        self.wait("document.getElementById('fact').textContent.startsWith('All')", "the count")

    def wait_for_state(self, state: str) -> None:
        self.wait(f"document.getElementById('state').dataset.state === '{state}'", state)

    @property
    def state(self) -> str:
        return str(self.script("return document.getElementById('state-text')?.textContent"))

    @property
    def delivery(self) -> str:
        return str(self.script("return document.querySelector('.verdict').innerText"))

    @property
    def joins(self) -> str:
        return str(self.script("return document.getElementById('joins').innerText"))

    def printed(self, table: str = "log-rows") -> list[int]:
        """Return the numbers that the page prints, in the order in which they stand there."""
        source = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return [int(text) for text in self.script(source, f"#{table} .no")]

    def text(self, element: str) -> str:
        return str(self.script("return document.getElementById(arguments[0]).innerText", element))

    def expect_each_once_in_order(self) -> None:
        self.wait_for_end()
        numbers = self.printed()
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 200
        assert self.delivery.split("\n") == [f"All {len(numbers)} events", "each once, in order."]

    def expect_no_complaint(self) -> None:
        """Nothing was blocked by the page's own policy and no script failed."""
        log = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        told = [entry["message"] for entry in log]
        assert not [text for text in told if "Uncaught" in text or "Security Policy" in text], told


@pytest.fixture
def demo(serve: Serve) -> ServerProcess:
    return serve(APP, args=["--factory"])


@pytest.fixture
def page(browser: Chrome, demo: ServerProcess) -> DemoPage:
    return DemoPage(browser, demo.url)


def serve_on_redis(serve: Serve, redis: RedisServer, key_prefix: str) -> ServerProcess:
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_SECRET_KEY": KEY,
    }
    return serve(APP, args=["--factory"], env=env)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["sse", "ws"])
def test_refreshed_and_cut_off_for_three_seconds_each_event_comes_once_and_in_order(
    browser: Chrome, demo: ServerProcess, transport: str
) -> None:
    with FaultProxy.threaded("127.0.0.1", demo.port) as proxy:
        page = DemoPage(browser, f"http://127.0.0.1:{proxy.port}")
        page.log_in("?speed=3")
        page.switch_to(transport)
        page.start()
        page.wait_past(30)
        browser.refresh()
        page.wait_past(60)
        assert page.text("user") == "Ada"
        proxy.refuse()
        proxy.cut()
        page.wait_for_state("waiting")
        time.sleep(3)  # the length of the cut is what is tested
        seen = page.printed()
        proxy.heal()
        page.wait_past(len(seen))
        page.expect_each_once_in_order()
        assert "page refreshed" in page.joins
        assert f"after {len(seen)} connection lost" in page.joins
        assert page.text("user") == "Ada"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.slow
def test_the_cut_button_loses_nothing(page: DemoPage, transport: str) -> None:
    page.log_in("?speed=4")
    page.switch_to(transport)
    page.start()
    page.wait_past(40)
    page.click("#cut")
    page.wait_for_state("cut")
    before = page.printed()
    page.wait_past(len(before))
    page.expect_each_once_in_order()
    assert f"after {len(before)} network cut for 3 s" in page.joins
    page.expect_no_complaint()


@pytest.mark.slow
def test_a_network_that_swallows_everything_is_noticed_and_survived(
    browser: Chrome, demo: ServerProcess
) -> None:
    with FaultProxy.threaded("127.0.0.1", demo.port) as proxy:
        page = DemoPage(browser, f"http://127.0.0.1:{proxy.port}")
        page.log_in("?speed=3")
        page.start()
        page.wait_past(30)
        proxy.blackhole()
        page.wait_for_state("waiting")
        proxy.heal()
        page.expect_each_once_in_order()


@pytest.mark.slow
def test_the_transport_can_be_changed_in_mid_run(page: DemoPage) -> None:
    page.log_in("?speed=4")
    page.start()
    for past, transport in [(30, "ws"), (70, "sse"), (110, "ws")]:
        page.wait_past(past)
        page.switch_to(transport)
    page.expect_each_once_in_order()


@pytest.mark.slow
def test_a_second_tab_follows_the_same_run(page: DemoPage) -> None:
    page.log_in("?speed=4")
    page.start()
    page.wait_past(30)
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    page.driver.get(page.url)
    page.wait_past(30)
    page.expect_each_once_in_order()
    page.driver.switch_to.window(first)
    page.expect_each_once_in_order()


@pytest.mark.slow
def test_the_history_of_a_finished_run_is_read_page_by_page(page: DemoPage) -> None:
    page.log_in("?speed=40")
    page.start()
    page.wait_for_end()
    page.click("#tab-history")
    page.wait("document.querySelectorAll('#history-rows tr').length >= 50", "the first page")
    shown = len(page.printed())
    while not page.script("return document.getElementById('more').hidden"):
        page.click("#more")
    page.wait(f"document.querySelectorAll('#history-rows tr').length >= {shown}", "the last page")
    assert page.printed("history-rows") == list(range(1, shown + 1))


def test_a_finished_run_is_shown_whole_after_a_refresh(page: DemoPage) -> None:
    page.log_in("?speed=40")
    page.start()
    page.wait_for_end()
    page.driver.refresh()
    page.expect_each_once_in_order()
    page.expect_no_complaint()


def test_logging_out_ends_what_the_page_shows(page: DemoPage) -> None:
    page.log_in("?speed=40")
    page.start()
    page.wait_past(5)
    page.click("#logout")
    page.wait("!document.getElementById('welcome').hidden", "the login form")
    page.driver.refresh()
    page.wait("!document.getElementById('welcome').hidden", "the login form")
    assert page.script("return document.getElementById('desk').hidden")


def test_the_tabs_and_the_theme_work_from_the_keyboard(page: DemoPage) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.log_in("?speed=40")
    page.start()
    page.wait_for_end()
    page.script("document.getElementById('tab-story').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.driver.switch_to.active_element.get_attribute("id") == "tab-log"
    assert page.driver.find_element(By.ID, "log").is_displayed()
    theme = page.driver.find_element(By.ID, "theme")
    before = theme.get_attribute("aria-pressed")
    theme.send_keys(Keys.ENTER)
    assert theme.get_attribute("aria-pressed") != before
    page.driver.refresh()
    page.wait(f"document.getElementById('theme').ariaPressed !== '{before}'", "the theme, kept")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.slow
def test_the_stop_button_ends_the_run_from_the_keyboard(page: DemoPage, transport: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.log_in("?speed=1")
    page.switch_to(transport)
    page.start()
    page.wait("document.querySelector('.result.waiting')", "a call that waits")
    page.driver.find_element(By.ID, "stop").send_keys(Keys.ENTER)
    page.wait_for_state("ended")
    assert page.state == "Stopped"
    assert "The run was stopped." in page.text("story")
    assert not page.script("return document.querySelectorAll('.result.waiting').length")
    assert page.driver.switch_to.active_element.get_attribute("id") == "run-title"
    assert page.script("return document.getElementById('stop').disabled")
    assert page.delivery.endswith("each once, in order.")
    page.driver.refresh()
    page.wait_for_state("ended")
    assert page.state == "Stopped"
    page.expect_no_complaint()


@pytest.mark.slow
def test_a_stop_that_cannot_be_asked_for_is_told_and_can_be_tried_again(
    browser: Chrome, demo: ServerProcess
) -> None:
    with FaultProxy.threaded("127.0.0.1", demo.port) as proxy:
        page = DemoPage(browser, f"http://127.0.0.1:{proxy.port}")
        page.log_in("?speed=0.3")
        page.start()
        page.wait_past(3)
        proxy.refuse()
        proxy.cut()
        page.wait_for_state("waiting")
        page.click("#stop")
        page.wait("!document.getElementById('notice').hidden", "the notice")
        assert "did not answer" in page.text("notice")
        proxy.heal()
        page.wait_for_state("live")
        page.click("#stop")
        page.wait_for_state("ended")
        assert page.state == "Stopped"


@pytest.mark.slow
def test_what_a_screen_reader_hears_is_not_flooded(page: DemoPage) -> None:
    page.log_in("?speed=40")
    page.script(
        "window.heard = [];"
        "new MutationObserver(() => heard.push(document.getElementById('announce').textContent))"
        ".observe(document.getElementById('announce'), {childList: true})"
    )
    page.start()
    page.wait_for_end()
    heard = page.script("return heard")
    assert heard[-1].startswith("The run is over. All ")
    assert len(heard) < 12


@pytest.mark.slow
def test_two_servers_on_one_redis_show_the_same_run(
    browser: Chrome, serve: Serve, redis: RedisServer, key_prefix: str
) -> None:
    one, two = (serve_on_redis(serve, redis, key_prefix) for _ in range(2))
    page = DemoPage(browser, one.url)
    page.log_in("?speed=3")
    run_id = page.start()
    page.wait_past(40)
    page.driver.get(f"{two.url}/#{run_id}")  # one host, two ports: a cookie knows no port
    page.wait_past(40)
    assert page.text("user") == "Ada"
    assert page.text("process") == f"process {two.pid}"
    assert page.text("session-store") == "Redis"
    page.expect_each_once_in_order()


@pytest.mark.slow
def test_a_killed_server_that_comes_back_finds_the_reader_logged_in_and_at_its_place(
    browser: Chrome, serve: Serve, redis: RedisServer, key_prefix: str
) -> None:
    worker, front = (serve_on_redis(serve, redis, key_prefix) for _ in range(2))
    page = DemoPage(browser, worker.url)
    page.log_in("?speed=3")
    run_id = page.start()
    page.driver.get(f"{front.url}/#{run_id}")
    page.wait_past(40)
    front.kill()
    page.wait_for_state("waiting")
    front.start()
    page.expect_each_once_in_order()
    assert page.text("user") == "Ada"
    assert "connection lost" in page.joins


@pytest.mark.slow
def test_a_run_whose_server_was_stopped_is_not_called_complete(
    browser: Chrome, serve: Serve, redis: RedisServer, key_prefix: str
) -> None:
    server = serve_on_redis(serve, redis, key_prefix)
    page = DemoPage(browser, server.url)
    page.log_in("?speed=1")
    page.start()
    page.wait("document.querySelector('.result.waiting')", "a call that waits")
    server.stop()
    server.start()
    page.wait_for_state("ended")
    assert page.state == "Failed"
    assert "The run failed: its server was stopped" in page.text("story")
    assert not page.script("return document.querySelectorAll('.result.waiting').length")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.slow
def test_redis_killed_in_mid_run_and_started_again_loses_nothing(
    browser: Chrome, serve: Serve, transport: str
) -> None:
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:
        page = DemoPage(browser, serve_on_redis(serve, redis, "").url)
        page.log_in("?speed=3")
        page.switch_to(transport)
        page.start()
        page.wait_past(40)
        redis.kill()
        page.wait("document.getElementById('redis').dataset.link === 'down'", "the outage")
        page.wait_past(len(page.printed()) + 10)  # what this process publishes goes on
        redis.start()
        page.expect_each_once_in_order()
        page.driver.refresh()
        page.expect_each_once_in_order()
        assert page.text("user") == "Ada"
        page.wait("document.getElementById('redis').dataset.link === 'up'", "Redis")


@pytest.mark.slow
def test_a_restart_of_a_server_without_redis_is_told(page: DemoPage, demo: ServerProcess) -> None:
    page.log_in("?speed=1")
    page.start()
    page.wait_past(5)
    demo.kill()
    page.wait_for_state("waiting")
    demo.start()
    page.wait("!document.getElementById('welcome').hidden", "the login form")
    assert "ends with its process" in page.text("notice")


@pytest.mark.slow
def test_the_page_fits_every_window(page: DemoPage) -> None:
    page.log_in("?speed=40")
    page.start()
    page.wait_for_end()
    for width, height in [(1440, 900), (900, 1000), (390, 844), (320, 640)]:
        with window(page, width, height):
            assert page.script("return document.documentElement.scrollWidth") <= width
            if width > 1200:
                assert page.script("return document.documentElement.scrollHeight") <= height


CONTRAST = """
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const probe = document.body.appendChild(document.createElement("i"));
    const luminance = (name) => {
      probe.style.color = `var(--${name})`;
      context.fillStyle = getComputedStyle(probe).color;
      context.fillRect(0, 0, 1, 1);
      const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
      const [red, green, blue] = [...context.getImageData(0, 0, 1, 1).data].map(linear);
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const [one, two] = [...arguments].map(luminance);
    probe.remove();
    return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(page: DemoPage, theme: str) -> None:
    page.driver.get(page.url)
    page.script("document.documentElement.dataset.theme = arguments[0]", theme)
    pairs = [("ink", "paper"), ("ink", "sea-wash"), ("sea-ink", "sea"), ("rust", "rust-wash")]
    words, grounds = ["ink", "soft", "sea", "amber", "rust"], ["paper", "sheet"]
    pairs += [(word, ground) for word in words for ground in grounds]
    pairs += [("soft", "sea-wash"), ("soft", "raised")]
    ratios = {pair: page.script(CONTRAST, *pair) for pair in pairs}
    assert not {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5}  # WCAG 2.2, 1.4.3


@pytest.mark.slow
def test_it_looks_well_in_light_and_dark(page: DemoPage, tmp_path: Path) -> None:
    """Screenshots; ``HOLDFAST_TEST_SCREENSHOTS=1`` renews those of the docs."""
    folder = DOCS_IMAGES if os.environ.get("HOLDFAST_TEST_SCREENSHOTS") else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    with window(page, 1440, 900):
        page.log_in("?speed=4")
        page.start()
        page.wait_past(100)
        page.driver.refresh()
        page.wait_past(130)
        brightness = [photograph(page, folder, theme) for theme in ("light", "dark")]
    assert brightness[0] > 0.8
    assert brightness[1] < 0.3


@contextlib.contextmanager
def window(page: DemoPage, width: int, height: int) -> Iterator[None]:
    command: Callable[[str, dict[str, object]], object] = page.driver.execute_cdp_cmd
    size: dict[str, object] = {"width": width, "height": height}
    size |= {"deviceScaleFactor": 1, "mobile": width < 600}
    command("Emulation.setDeviceMetricsOverride", size)
    yield
    command("Emulation.clearDeviceMetricsOverride", {})


def photograph(page: DemoPage, folder: Path, theme: str) -> float:
    """Take a picture as a person with this system theme sees it; return the paper's lightness."""
    command: Callable[[str, dict[str, object]], object] = page.driver.execute_cdp_cmd
    feature = {"name": "prefers-color-scheme", "value": theme}
    command("Emulation.setEmulatedMedia", {"features": [feature]})
    assert page.driver.save_screenshot(str(folder / f"demo-{theme}.png"))
    lightness = "return getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/)[0]"
    return float(page.script(lightness))
