"""One publisher of the soak: a process of its own that numbers its events and leaves once all are
stored, and says by its exit status whether any was refused."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from typing import Any

from holdfast import EventStore, RunPublisher, SyncRunPublisher, aclose

PATIENCE = 30.0


def event(name: str, n: int) -> dict[str, Any]:
    return {"p": name, "n": n, "x": "x" * random.randrange(100)}


async def by_loop(run: str, name: str, events: int, rate: float) -> None:
    """In small batches, as concurrent tasks do."""
    publisher = RunPublisher(run)
    n = 0
    while n < events:
        batch = range(n + 1, min(n + random.randrange(1, 10), events) + 1)
        await asyncio.gather(*(publisher.emit("t", event(name, each)) for each in batch))
        n = batch[-1]
        await asyncio.sleep(len(batch) / rate)


def by_threads(run: str, name: str, events: int, rate: float) -> None:
    """One after the other, as a worker does."""
    publisher = SyncRunPublisher(run)
    for n in range(1, events + 1):
        publisher.emit("t", event(name, n))
        time.sleep(random.uniform(0, 2 / rate))


async def main() -> None:
    run, name, events, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    if name == "threads":
        failed: list[BaseException] = []

        def publish() -> None:
            try:
                by_threads(run, name, events, rate)
            except BaseException as error:  # noqa: BLE001 - told below, in the main thread
                failed.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.05)
        if failed:
            raise failed[0]
    else:
        await by_loop(run, name, events, rate)
    store: Any = EventStore.from_settings()
    async with asyncio.timeout(PATIENCE):
        while store.journalled:
            await asyncio.sleep(0.05)
    await aclose()


if __name__ == "__main__":
    asyncio.run(main())
