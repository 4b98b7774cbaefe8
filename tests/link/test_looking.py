"""A lone reply is looked for: the loop stays awake for a moment, and no longer."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING

import pytest

from holdfast.link import Link
from holdfast.link.lane import LOOK_SECONDS
from holdfast.link.spin import Spin
from holdfast.settings import Settings

if TYPE_CHECKING:
    from holdfast.testing import RedisServer


class Counting(selectors.DefaultSelector):
    """The selector of a loop; it counts the turns of the loop that did not sleep."""

    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += timeout == 0
        return super().select(timeout)


class Coarse(asyncio.SelectorEventLoop):
    """A loop whose clock goes by steps, as uvloop's does by those of a millisecond."""

    def time(self) -> float:
        return int(super().time() * 20) / 20


@pytest.mark.parametrize("kind", [asyncio.SelectorEventLoop, Coarse], ids=["fine", "coarse"])
def test_loop_is_awake_for_a_moment_at_a_late_reply_and_not_at_the_next(
    kind: type[asyncio.SelectorEventLoop], redis: RedisServer, key_prefix: str
) -> None:
    selector = Counting()

    async def turns(link: Link, *command: str) -> int:
        """Count the turns in a tenth of a second after *command*."""
        selector.turns = 0
        if command:
            link.send(*command)
        await asyncio.sleep(0.1)
        return selector.turns

    async def watch() -> tuple[int, int, int, int]:
        link = Link(Settings(redis_url=redis.url, redis_timeout=10))
        for _ in range(3):
            await link.execute("PING")  # from here on it is expected to be alone
        conversation = link._lanes[asyncio.get_running_loop()]._current  # type: ignore[union-attr]
        assert conversation is not None
        conversation._spin = Spin()
        late = "BLPOP", f"{key_prefix}nothing", "0.3"
        quiet = await turns(link)
        first, then = await turns(link, *late), await turns(link)
        conversation._spin.missed()  # once more: the next are not looked for
        for _ in range(2):
            await link.execute("PING")  # the first behind the late one, the second alone
        second = await turns(link, *late)
        await link.execute("PING")
        await link.aclose()
        return quiet, first, then, second

    def loop() -> asyncio.AbstractEventLoop:
        return kind(selector)

    with asyncio.Runner(loop_factory=loop) as runner:
        quiet, first, then, second = runner.run(watch())
    assert first > quiet
    # No turn of a loop takes less than a microsecond.
    assert first <= quiet + LOOK_SECONDS * 1_000_000
    assert then <= quiet + 1
    assert second <= quiet + 1
