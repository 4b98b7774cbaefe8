"""The example, as a person with a browser meets it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from tests.oauth.provider import EXAMPLE, consent, query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

    from holdfast.testing import RedisServer


@pytest.fixture(params=["memory", "redis"])
def server(
    request: pytest.FixtureRequest, serve: Serve, redis: RedisServer, key_prefix: str
) -> ServerProcess:
    env = {"HOLDFAST_SECRET_KEY": "a key of more than sixteen characters"}
    if request.param == "redis":
        env |= {"HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
    return serve([str(EXAMPLE)], env=env)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def begin(client: httpx.Client) -> str:
    answer = client.get("/login")
    assert answer.status_code == 302
    assert answer.headers["cache-control"] == "no-store"
    return answer.headers["location"]


def test_a_login_has_a_verifier_and_a_nonce_and_ends_with_a_session(client: httpx.Client) -> None:
    there = begin(client)
    asked = query(there)
    assert asked["code_challenge_method"] == "S256"
    assert asked["nonce"]
    done = client.get(consent(there), follow_redirects=True)
    assert "Hello, <b>Ada</b>" in done.text
    client.post("/logout")
    assert "Nobody" in client.get("/").text


def test_a_login_that_only_began_has_no_session(client: httpx.Client) -> None:
    begin(client)
    assert [name.startswith("holdfast_oauth-") for name in client.cookies] == [True]


def test_two_tabs_both_log_in(client: httpx.Client) -> None:
    tabs = [begin(client), begin(client)]
    for there in tabs:
        assert client.get(consent(there), follow_redirects=True).status_code == 200


def test_a_callback_cannot_be_replayed(client: httpx.Client) -> None:
    callback = consent(begin(client))
    assert client.get(callback).status_code == 303
    again = client.get(callback)
    assert again.status_code == 400
    assert "Again" in again.text


def test_a_victim_is_not_logged_in_as_the_attacker(
    client: httpx.Client, server: ServerProcess
) -> None:
    callback = consent(begin(client), "Mallory")
    with httpx.Client(base_url=server.url) as victim:
        begin(victim)
        assert victim.get(callback).status_code == 400
        assert "Nobody" in victim.get("/").text
    assert client.get(callback).status_code == 303


def test_a_state_and_a_code_of_two_logins_do_not_make_one(client: httpx.Client) -> None:
    mine, stolen = consent(begin(client)), consent(begin(client), "Mallory")
    mixed = httpx.URL(mine).copy_set_param("code", query(stolen)["code"])
    # The verifier of the one does not fit the challenge of the other.
    assert client.get(str(mixed)).status_code == 400


def test_no_state_code_or_verifier_is_logged_by_us(
    client: httpx.Client, server: ServerProcess
) -> None:
    callback = consent(begin(client))
    client.get(callback)
    told = query(callback)
    # The server's access log holds the addresses that browsers ask for; ours holds nothing.
    server.await_log(told["state"])
    ours = [line for line in server.log().splitlines() if " HTTP/1.1" not in line]
    for secret in told.values():
        assert secret not in "\n".join(ours)


@pytest.mark.browser
def test_54_a_post_from_the_providers_page_logs_in_a_real_browser(
    browser: Chrome, serve: Serve
) -> None:
    env = {"HOLDFAST_SECRET_KEY": "a key of more than sixteen characters"}
    server = serve([str(Path(__file__).with_name("form_post_app.py"))], env=env)
    # The provider is 127.0.0.1: to the browser, localhost is another site, and trustworthy.
    browser.get(server.url.replace("127.0.0.1", "localhost") + "/login")
    assert "127.0.0.1" in browser.current_url
    browser.find_element(By.TAG_NAME, "button").click()
    WebDriverWait(browser, 10).until(lambda _: "localhost" in browser.current_url)
    WebDriverWait(browser, 10).until(
        lambda _: "Hello, Ada" in browser.page_source.replace("<b>", "")
    )
