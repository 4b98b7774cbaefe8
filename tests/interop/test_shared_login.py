"""A Flask app, a FastAPI app and a Django site, each on a server of its own, behind one nginx."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.interop.proxies import PRODUCTION, installed, proxy
from tests.support.process import ROOT

from holdfast import Settings, SyncSessionIndex

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome
    from tests.conftest import Serve

    from holdfast.testing import RedisServer

pytest.importorskip("django")
pytest.importorskip("flask")
pytest.importorskip("fastapi")
pytest.importorskip("gunicorn")
pytestmark = [pytest.mark.slow, pytest.mark.browser]

EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "frameworks" / "shared-login.md"


@pytest.fixture
def environment(redis: RedisServer, key_prefix: str, tmp_path: Path) -> dict[str, str]:
    return {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_SECRET_KEY": "the key that the three of them have",
        "HOLDFAST_SESSION_USER_KEY": "user_id",
        # A busy machine is slow, not away.
        "HOLDFAST_REDIS_TIMEOUT": "10",
        "SITE_DATABASE": str(tmp_path / "site.sqlite3"),
    }


@pytest.fixture
def url(serve: Serve, environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of nginx, with the lines of the page in the file of another."""
    if not installed("nginx"):
        pytest.skip("nginx is not installed: apt-get install nginx")
    migrate = [sys.executable, "-c", "from examples.shared_login import prepare; prepare()"]
    subprocess.run(migrate, cwd=ROOT, env=environment, check=True, timeout=120)
    api = serve(EXAMPLES / "shared_login.py", env=environment)
    gunicorn = ["-m", "gunicorn", "--chdir", str(EXAMPLES), "--bind", "127.0.0.1:{port}"]
    shop = serve([*gunicorn, "--workers", "2", "shared_login:shop"], env=environment)
    account = serve([*gunicorn, "--threads", "2", "shared_login:account"], env=environment)
    block = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    places = block[1].replace(":8001", f":{shop.port}").replace(":8002", f":{account.port}")
    rest = "    location / {"
    assert rest in (PRODUCTION / "nginx.conf").read_text()
    folder = tmp_path / "nginx"
    folder.mkdir()
    with proxy("nginx", folder, [api], [(rest, f"{places}\n{rest}")]) as nginx:
        yield nginx.url


class Tab:
    """A page as a person sees it."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self._driver = driver
        self._url = url

    def open(self, path: str) -> str:
        self._driver.get(self._url + path)
        return self.text

    @property
    def text(self) -> str:
        return str(self._driver.execute_script("return document.body.innerText"))

    @property
    def cookie(self) -> str | None:
        found = self._driver.get_cookie("session")
        return None if found is None else str(found["value"])

    def click(self, label: str) -> None:
        """Press the button, and wait for the page that comes of it."""
        buttons = "[...document.querySelectorAll('button')]"
        find = f"return {buttons}.find(b => b.innerText == arguments[0])"
        button = self._driver.execute_script(find, label)
        self._driver.execute_script("window.before = true; arguments[0].click()", button)
        loaded = "return !window.before && document.readyState == 'complete'"
        deadline = time.monotonic() + 30
        while not self._driver.execute_script(loaded):
            assert time.monotonic() < deadline, f"nothing came of {label!r}: {self.text}"
            time.sleep(0.02)

    def type(self, field: str, text: str) -> None:
        script = "document.querySelector(`[name=${arguments[0]}]`).value = arguments[1]"
        self._driver.execute_script(script, field, text)


def test_in_at_flask_known_at_fastapi_out_at_django(
    browser: Chrome, url: str, redis: RedisServer, key_prefix: str
) -> None:
    index = SyncSessionIndex(settings=Settings(redis_url=redis.url, key_prefix=key_prefix))
    page = Tab(browser, url)
    assert page.open("/shop/").startswith("Nobody")
    page.click("Buy")
    assert "['tea']" in page.text
    anonymous = page.cookie

    page.type("name", "ada")
    page.type("password", "lovelace")
    page.click("Log in")
    assert page.text.startswith("ada")
    assert page.cookie not in {None, anonymous}
    known = page.cookie
    assert len(index.list("ada")) == 1

    assert page.open("/api/me") == '{"user":"ada","cart":["tea"]}'
    assert page.open("/account/").startswith("ada")
    assert page.cookie == known, "who only reads it changes no cookie"

    page.click("Log out")
    assert page.text.startswith("Nobody")
    assert page.cookie is None
    assert page.open("/api/me") == '{"user":null,"cart":[]}'
    assert page.open("/shop/").startswith("Nobody")
    assert index.list("ada") == []
    for path in ("/api/me", "/shop/", "/account/"):
        with httpx.Client(base_url=url, cookies={"session": str(known)}, timeout=30) as copy:
            assert "ada" not in copy.get(path).text.replace("value=ada", "")
