"""The listener: confirmed, kept alive, made again, and honest about what it may have missed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeAlias

import pytest
from tests.link.conftest import until

from holdfast.link import Link, LinkState, Listener
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.link.conftest import MakeLink

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.gaps = 0

    def message(self, channel: bytes, payload: bytes) -> None:
        self.messages.append((channel, payload))

    def gap(self) -> None:
        self.gaps += 1


Listen: TypeAlias = "Callable[[Link], tuple[Listener, Heard]]"


@pytest.fixture
async def listen() -> AsyncIterator[Callable[[Link], tuple[Listener, Heard]]]:
    listeners: list[Listener] = []

    def make(link: Link) -> tuple[Listener, Heard]:
        heard = Heard()
        listeners.append(Listener(link, heard.message, heard.gap))
        return listeners[-1], heard

    yield make
    for listener in listeners:
        await listener.aclose()


async def test_a_channel_is_heard_from_the_moment_add_returns(
    redis: RedisServer, make_link: MakeLink, key_prefix: str, listen: Listen
) -> None:
    link = make_link(redis.url)
    listener, heard = listen(link)
    for n in range(20):
        channel = f"{key_prefix}{n}"
        await listener.add(channel)
        await listener.add(channel)
        assert await link.execute("PUBLISH", channel, n) == 1
    await until(lambda: len(heard.messages) == 20)
    assert heard.messages[7] == (f"{key_prefix}7".encode(), b"7")
    # Nothing could have been missed, so no gap is told.
    assert heard.gaps == 0


async def test_a_discarded_channel_is_silent_and_can_be_added_again(
    redis: RedisServer, make_link: MakeLink, key_prefix: str, listen: Listen
) -> None:
    link, channel = make_link(redis.url), f"{key_prefix}c"
    listener, heard = listen(link)
    await listener.discard(channel)
    await listener.add(channel)
    await listener.discard(channel)
    await until(lambda: redis.execute("PUBLISH", channel, "nobody") == 0)
    for n in range(20):
        await listener.discard(channel)
        await listener.add(channel)
        assert await link.execute("PUBLISH", channel, n) == 1
    await until(lambda: len(heard.messages) == 20)


async def test_many_channels_share_one_connection(
    redis: RedisServer, make_link: MakeLink, key_prefix: str, listen: Listen
) -> None:
    link = make_link(redis.url, timeout=5.0)
    listener, heard = listen(link)
    channels = [f"{key_prefix}{n}" for n in range(1200)]
    await asyncio.gather(*[listener.add(each) for each in channels])
    answers = await link.pipeline([("PUBLISH", each, "x") for each in channels])
    assert answers == [1] * 1200
    await until(lambda: len(heard.messages) == 1200)


async def test_after_a_lost_connection_every_channel_is_back_and_the_gap_is_told(
    redis: RedisServer, make_link: MakeLink, key_prefix: str, listen: Listen
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}")
        listener, heard = listen(link)
        channels = [f"{key_prefix}{n}" for n in range(700)]
        await asyncio.gather(*[listener.add(each) for each in channels])
        proxy.cut()
        await until(lambda: heard.gaps == 1)
        for each in channels:
            assert redis.execute("PUBLISH", each, "again") == 1
        await until(lambda: len(heard.messages) == 700)


async def test_add_returns_while_redis_is_away_and_is_made_good(
    fresh_redis: RedisServer, make_link: MakeLink, listen: Listen
) -> None:
    fresh_redis.stop()
    link = make_link(fresh_redis.url)
    listener, heard = listen(link)
    async with asyncio.timeout(4):
        await listener.add("first")
        await listener.add("second")
        await listener.discard("second")
    fresh_redis.start()
    await until(lambda: heard.gaps == 1)
    assert fresh_redis.execute("PUBLISH", "first", "x") == 1
    assert fresh_redis.execute("PUBLISH", "second", "x") == 0
    await until(lambda: heard.messages == [(b"first", b"x")])


async def test_an_outage_is_survived_and_told_as_a_gap(
    fresh_redis: RedisServer, make_link: MakeLink, listen: Listen
) -> None:
    link = make_link(fresh_redis.url)
    listener, heard = listen(link)
    await listener.add("c")
    fresh_redis.kill()
    await until(lambda: link.status.state is LinkState.DOWN)
    fresh_redis.start()
    await until(lambda: heard.gaps == 1)
    fresh_redis.execute("PUBLISH", "c", "x")
    await until(lambda: heard.messages == [(b"c", b"x")])


@pytest.mark.slow
async def test_a_connection_that_died_without_a_word_is_found_out(
    redis: RedisServer, make_link: MakeLink, key_prefix: str, listen: Listen
) -> None:
    """Only the listener's connection hangs: the link itself stays up and cannot tell."""
    link = make_link(redis.url, timeout=1.0)
    listener, heard = listen(link)
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        beside = make_link(f"redis://127.0.0.1:{proxy.port}")
        link.topology.target = beside.target
        await listener.add(f"{key_prefix}c")
        assert proxy.live >= 1
        proxy.blackhole("replies")
        link.topology.target = make_link(redis.url).target
        await until(lambda: heard.gaps == 1)
        redis.execute("PUBLISH", f"{key_prefix}c", "x")
        await until(lambda: heard.messages == [(f"{key_prefix}c".encode(), b"x")])
        assert link.up


async def test_an_unanswered_subscription_is_taken_for_a_dead_connection(
    redis: RedisServer, make_link: MakeLink, key_prefix: str, listen: Listen
) -> None:
    link = make_link(redis.url, timeout=1.0)
    listener, heard = listen(link)
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link.topology.target = make_link(f"redis://127.0.0.1:{proxy.port}").target
        await listener.add(f"{key_prefix}a")
        proxy.blackhole("replies")
        link.topology.target = make_link(redis.url).target
        async with asyncio.timeout(10):
            await listener.add(f"{key_prefix}b")
        await until(lambda: heard.gaps == 1)
        assert redis.execute("PUBLISH", f"{key_prefix}b", "x") == 1


async def test_a_subscriber_that_fails_goes_on_hearing(
    fresh_redis: RedisServer, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    link, heard = make_link(fresh_redis.url), list[bytes]()

    def message(_: bytes, payload: bytes) -> None:
        heard.append(payload)
        raise ValueError("a bug")

    def gap() -> None:
        heard.append(b"gap")
        raise ValueError("a bug")

    listener = Listener(link, message, gap)
    await listener.add("c")
    fresh_redis.execute("PUBLISH", "c", "1")
    await until(lambda: heard == [b"1"])
    fresh_redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: heard == [b"1", b"gap"])
    fresh_redis.execute("PUBLISH", "c", "2")
    await until(lambda: heard == [b"1", b"gap", b"2"])
    assert {record.name for record in caplog.records} == {"holdfast.link"}
    assert caplog.records[0].levelno == logging.ERROR
    await listener.aclose()


async def test_a_user_that_may_not_subscribe_ends_in_no_circle_of_connects(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    fresh_redis.execute("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-subscribe")
    link = make_link(f"redis://app:pw@127.0.0.1:{fresh_redis.port}", timeout=1.0)
    listener = Listener(link, lambda *_: None, lambda: None)
    async with asyncio.timeout(10):
        await listener.add("c")
    before = _connections(fresh_redis)
    await asyncio.sleep(0.5)
    assert _connections(fresh_redis) - before <= 8
    await listener.aclose()


def _connections(server: RedisServer) -> int:
    info = server.execute("INFO", "stats")
    assert isinstance(info, bytes)
    (line,) = [each for each in info.splitlines() if each.startswith(b"total_connections_received")]
    return int(line.partition(b":")[2])


async def test_a_closed_listener_is_closed_for_good(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(redis.url)
    listener = Listener(link, lambda *_: None, lambda: None)
    await listener.add(f"{key_prefix}c")
    await listener.aclose()
    await listener.aclose()
    await until(lambda: redis.execute("PUBLISH", f"{key_prefix}c", "x") == 0)
