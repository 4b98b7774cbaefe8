"""The Redis user of docs/production/redis-user.md can do all that holdfast does, and no more.

The page's own line makes the user, and Redis's own log of refusals says whether it was enough.
"""

from __future__ import annotations

import re
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.oauth.door import Browser as OAuthBrowser
from tests.oauth.door import Door
from tests.sessions.browser import Browser, app_of
from tests.support.store_suites import SessionsOnRedis, StreamsOnRedis

from holdfast import OAuthStateStore, SessionIndex, SessionMiddleware, Settings
from holdfast.testing import redis_server
from holdfast.testing.redis_process import send_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


PAGE = Path(__file__).resolve().parents[1] / "docs" / "production" / "redis-user.md"
PASSWORD = "a-password-of-the-test"


def rule_of_the_page() -> list[str]:
    """The words of ``ACL SETUSER`` as the page spells them, with a password of ours."""
    block = re.search(r"```\n(ACL SETUSER .*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    words = block[1].replace("\\\n", " ").split()
    return [f">{PASSWORD}" if word.startswith(">") else word for word in words]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as server:
        server.execute(*rule_of_the_page())
        yield f"redis://holdfast:{PASSWORD}@127.0.0.1:{server.port}/0"
        assert server.execute("ACL", "LOG") == [], "holdfast was refused something"


def settings_of(url: str, **more: Any) -> Settings:
    values: dict[str, Any] = {"redis_timeout": 5, "key_prefix": "app:", "secret_key": "k" * 32}
    return Settings(redis_url=url, **values, **more)


@pytest.fixture
def store_settings(url: str) -> Callable[..., Settings]:
    return partial(settings_of, url)


class TestSessions(SessionsOnRedis): ...


class TestStreams(StreamsOnRedis): ...


async def test_logins_their_index_and_what_ends_them(url: str) -> None:
    settings = settings_of(url)
    login = Browser(SessionMiddleware(app_of(lambda s: s.update(user_id=1)), settings=settings))
    await login.get()
    await login.get()
    index = SessionIndex(settings=settings)
    (entry,) = await index.list(1)
    assert await index.revoke(entry.id_hash)
    assert await index.list(1) == []


async def test_oauth_states(url: str) -> None:
    store, browser = OAuthStateStore(settings=settings_of(url)), OAuthBrowser()
    door = Door(store)
    request = browser.request(door)
    state = await store.issue(request, {"next": "/"})
    browser.keep(store.cookie_headers(request))
    assert await store.consume(browser.request(door), state) == {"next": "/"}
    assert await store.consume(browser.request(door), state) is None


def test_it_can_do_nothing_else() -> None:
    with redis_server() as server:
        server.execute(*rule_of_the_page())
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            send_command(connection, "AUTH", "holdfast", PASSWORD)
            assert send_command(connection, "SET", "app:a", "1") == b"OK"
            for refused in ("KEYS *", "FLUSHALL", "CONFIG GET *", "GET other", "SUBSCRIBE other"):
                with pytest.raises(RuntimeError, match=r"^(NOPERM|ERR .*permissions)"):
                    send_command(connection, *refused.split())
