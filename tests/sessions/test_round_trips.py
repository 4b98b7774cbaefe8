"""What a session costs, counted by Redis itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.sessions.browser import Browser, Doing
from tests.sessions.monitor import Monitor, monitor

from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.session import Session
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

LOAD, SCRIPT = "hgetall", "evalsha"


class Counted:
    """A browser whose every request is counted.

    Args:
        redis: where sessions are.
        prefix: of their keys, which no other test has.
        watched: the server's own report.
    """

    def __init__(self, redis: RedisServer, prefix: str, watched: Monitor) -> None:
        self._watched, self._prefix = watched, prefix
        self.doing = Doing()
        settings = Settings(
            redis_url=redis.url,
            key_prefix=prefix,
            secret_key="only for this test, and long",
            redis_timeout=10,
        )
        self.browser = Browser(SessionMiddleware(self.doing, settings=settings))

    async def request(self, handle: Any) -> list[str]:
        """Return the commands of one request in which *handle* has the session."""
        before = len(self._watched.commands(self._prefix))
        self.doing.handle = handle
        await self.browser.get()
        return self._watched.commands(self._prefix)[before:]


@pytest.fixture
def counted(redis: RedisServer, key_prefix: str) -> Iterator[Counted]:
    with monitor(redis) as watched:
        yield Counted(redis, key_prefix, watched)


def writing(**values: Any) -> Any:
    return lambda session: session.update(values)


async def in_a_session(counted: Counted) -> None:
    # Twice, because a server that has not seen a script is told it first.
    for number in range(2):
        counted.browser.cookies.clear()
        await counted.request(writing(n=number, cart=[]))
        await counted.request(writing(n=-1))


async def test_without_a_cookie_nothing_is_asked(counted: Counted) -> None:
    assert await counted.request(dict) == []
    counted.browser.cookies["session"] = "x" * 101
    assert await counted.request(dict) == []


async def test_the_first_write_is_one_command(counted: Counted) -> None:
    await in_a_session(counted)
    counted.browser.cookies.clear()
    assert await counted.request(writing(a=1, b=2, c=[3])) == [SCRIPT]


async def test_a_load_is_one_command_and_unchanged_nothing_more(counted: Counted) -> None:
    await in_a_session(counted)
    assert await counted.request(dict) == [LOAD]
    assert await counted.request(lambda session: session["cart"].copy()) == [LOAD]
    assert await counted.request(writing(n=-1)) == [LOAD]


async def test_a_change_is_one_command_more_however_many_keys(counted: Counted) -> None:
    await in_a_session(counted)
    assert await counted.request(writing(n=1)) == [LOAD, SCRIPT]
    assert await counted.request(lambda session: session["cart"].append(1)) == [LOAD, SCRIPT]
    many = {f"k{number}": number for number in range(50)}
    assert await counted.request(lambda s: (s.update(many), s.pop("n"))) == [LOAD, SCRIPT]


async def test_a_regeneration_is_saved_and_settled_and_a_login_notes_the_user_first(
    counted: Counted,
) -> None:
    await in_a_session(counted)
    await counted.request(writing(user_id=6))
    await in_a_session(counted)
    assert await counted.request(Session.regenerate_id) == [LOAD, SCRIPT, SCRIPT]
    assert await counted.request(writing(user_id=7)) == [LOAD, SCRIPT, SCRIPT, SCRIPT]
    assert await counted.request(writing(n=5)) == [LOAD, SCRIPT]


async def test_a_logout_is_one_command_more(counted: Counted) -> None:
    await in_a_session(counted)
    await counted.request(Session.invalidate)
    await in_a_session(counted)
    assert await counted.request(Session.invalidate) == [LOAD, SCRIPT]
