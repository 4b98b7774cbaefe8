"""The listener of threads: confirmed, woken, kept alive, and made again after each loss."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from tests.link.conftest import until_sync

from holdfast.link import ThreadListener, waiting
from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tests.link.conftest import MakeLink

    from holdfast.link import Link
    from holdfast.testing import RedisServer


class Waiting:
    """A thread that waits on channels, and what it heard."""

    def __init__(self, link: Link, channels: Collection[str]) -> None:
        self.link = link
        self.channels = set(channels)
        self.heard: list[str] = []
        self.rounds = 0
        self.listener = ThreadListener(link)
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def start(self) -> Waiting:
        link, wake = self.link, self.listener.wake
        link.on_transition(lambda _: wake())
        link.start()
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._ended:
            self.heard += sorted(self.listener.wait(set(self.channels), 30))
            self.rounds += 1
        self.listener.close()

    def change(self, channels: Collection[str]) -> None:
        self.channels = set(channels)
        self.listener.wake()

    def take(self, *channels: str) -> None:
        """Wait until exactly *channels* have been heard, and forget them."""
        until_sync(lambda: sorted(set(self.heard)) == sorted(channels))
        self.heard.clear()

    def end(self) -> None:
        self._ended = True
        self.listener.wake()
        self._thread.join(15)
        assert not self._thread.is_alive()


@pytest.fixture
def heard(redis: RedisServer, make_link: MakeLink, key_prefix: str) -> Iterator[Waiting]:
    made = Waiting(make_link(redis.url), [f"{key_prefix}a"]).start()
    yield made
    made.end()


def test_a_confirmation_and_each_message_are_heard(
    redis: RedisServer, heard: Waiting, key_prefix: str
) -> None:
    channel = f"{key_prefix}a"
    heard.take(channel)
    for _ in range(3):
        assert redis.execute("PUBLISH", channel, "x") == 1
        heard.take(channel)


def test_channels_come_and_go_over_one_connection(
    redis: RedisServer, heard: Waiting, key_prefix: str
) -> None:
    heard.take(f"{key_prefix}a")
    many = [f"{key_prefix}{n}" for n in range(1200)]
    heard.change(many)
    heard.take(*many)
    assert redis.execute("PUBLISH", f"{key_prefix}a", "x") == 0
    assert redis.execute("PUBLISH", many[-1], "x") == 1
    heard.take(many[-1])
    heard.change([])
    until_sync(lambda: redis.execute("PUBLISH", many[0], "x") == 0)
    assert heard.heard == []


def test_it_sleeps_until_it_is_woken(heard: Waiting, key_prefix: str) -> None:
    heard.take(f"{key_prefix}a")
    before = heard.rounds
    time.sleep(0.1)
    assert heard.rounds <= before + 1
    for _ in range(100_000):
        heard.listener.wake()  # a full pipe is no error
    until_sync(lambda: heard.rounds > before)


def test_after_a_lost_connection_every_channel_is_told_again(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        channels = [f"{key_prefix}{n}" for n in range(3)]
        link = make_link(f"redis://127.0.0.1:{proxy.port}")
        waits = Waiting(link, channels).start()
        waits.take(*channels)
        proxy.cut()
        waits.take(*channels)
        assert redis.execute("PUBLISH", channels[1], "x") == 1
        waits.take(channels[1])
        waits.end()


def test_a_server_that_says_nothing_more_is_left(
    redis: RedisServer,
    make_link: MakeLink,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "PING_INTERVAL", 0.05)
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}", timeout=1.0)
        waits = Waiting(link, [key_prefix]).start()
        waits.take(key_prefix)
        time.sleep(0.3)  # as long as it answers its pings, nothing is told
        assert waits.heard == []
        proxy.blackhole()
        until_sync(lambda: not link.up)
        proxy.heal()
        waits.take(key_prefix)
        waits.end()


def test_while_redis_is_away_it_waits_without_asking(
    free_port: int, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(f"redis://127.0.0.1:{free_port}")
    waits = Waiting(link, [key_prefix]).start()
    until_sync(lambda: link.status.state.value == "down")
    time.sleep(0.05)
    before = waits.rounds
    time.sleep(0.2)
    assert waits.rounds <= before + 1
    assert waits.heard == []
    waits.end()
