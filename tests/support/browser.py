"""A real Chromium without a window, empty at the start of every test."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

# No sandbox: it needs user namespaces, which containers and root do not have. The rest keeps the
# browser from talking to anybody but the test.
SWITCHES = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--window-size=1280,900",
]


def missing_programs() -> list[str]:
    """Return which of the browser's programs are not installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    return [
        name
        for name, path in [("chromium", chromium), ("chromedriver", shutil.which("chromedriver"))]
        if path is None
    ]


@contextlib.contextmanager
def chromium(profile: Path, *switches: str) -> Iterator[Chrome]:
    """Run Chromium with the empty directory *profile* for the length of a ``with`` block."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    for switch in [*SWITCHES, f"--user-data-dir={profile}", *switches]:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The driver is named, so that selenium does not look for one in the network.
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
