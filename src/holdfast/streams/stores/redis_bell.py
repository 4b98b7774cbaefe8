"""The doorbell of the store in Redis: by Pub/Sub for what other processes write, and directly here.

What a bell or a message says is read by ``pubsub``; here it is listened for, and passed on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from holdfast.link import Listener
from holdfast.streams.store import Doorbell, News
from holdfast.streams.stores.bell import LocalDoorbell
from holdfast.streams.stores.pubsub import Heard

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.link import Link
    from holdfast.streams.store import Ring
    from holdfast.streams.stores.bell import LocalBells
    from holdfast.streams.stores.outbox import Outbox
    from holdfast.streams.stores.pubsub import Transports
    from holdfast.streams.stores.replies import Keys


class RedisDoorbell(Doorbell):
    """Listens for the runs of one hub.

    Args:
        link: the supervised link.
        keys: the names that a run has in Redis.
        transports: knows the channel of a Pub/Sub run.
        outbox: knows the name under which this process writes.
        bells: ring for what this process writes.
        ring: is told of news, in any thread.
        missed: is told that a bell may have rung unheard.
    """

    def __init__(
        self,
        link: Link,
        keys: Callable[[str], Keys],
        transports: Transports,
        outbox: Outbox,
        bells: LocalBells,
        ring: Ring,
        missed: Callable[[], None],
    ) -> None:
        self._keys = keys
        self._transports = transports
        self._outbox = outbox
        self._local = LocalDoorbell(bells, ring)
        self._ring = ring
        self._heard: dict[str, Heard] = {}
        # By the name of the channel: the run, and whether it is the run's bell.
        self._channels: dict[bytes, tuple[Heard, bool]] = {}
        self._listener = Listener(link, self._on_message, missed)

    async def add(self, run_id: str) -> None:
        await self._local.add(run_id)
        heard = self._heard.setdefault(run_id, Heard(run_id))
        bell, channel = self._names(run_id)
        self._channels[bell.encode()] = heard, True
        self._channels[channel.encode()] = heard, False
        await self._listener.add(bell, channel)

    async def settle(self, run_id: str) -> None:
        heard = self._heard.get(run_id)
        if heard is not None:
            # What is published beside a stream would come here for nothing.
            heard.transport = "streams"
            await self._ignore(self._names(run_id)[1])

    async def discard(self, run_id: str) -> None:
        await self._local.discard(run_id)
        if self._heard.pop(run_id, None) is not None:
            for name in self._names(run_id):
                await self._ignore(name)

    async def _ignore(self, name: str) -> None:
        if self._channels.pop(name.encode(), None) is not None:
            await self._listener.discard(name)

    def _names(self, run_id: str) -> tuple[str, str]:
        return self._keys(run_id).bell, self._transports.channel(run_id)

    async def aclose(self) -> None:
        self._local.release()
        await self._listener.aclose()

    def release(self) -> None:
        self._local.release()

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        heard, is_bell = self._channels.get(channel, (None, False))
        if heard is None:
            return
        now_ms = time.time_ns() // 1_000_000
        news = heard.bell(payload) if is_bell else heard.message(payload, now_ms)
        if news is not None:
            first = news.entries[0] if news.entries else None
            if first is not None and first.kept and first.producer == self._outbox.producer:
                news = News(news.life, (), news.n)  # heard when it was written
            self._ring(heard.run_id, news)
