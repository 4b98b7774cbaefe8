"""A process that serves one reader of a captured answer, until it is killed.

``python -m tests.streams.capture.a_reader URL PREFIX COOKIE`` says ``reads`` when it has an event.
"""

from __future__ import annotations

import asyncio
import sys

from tests.streams.capture.calls import Browser, Feed, captured, events_of
from tests.streams.redis_stores import opened, until


async def main(url: str, prefix: str, cookie: str) -> None:
    """Refresh the page of the browser that has *cookie*, and read for ever."""
    async with opened(url, prefix, stream_lease=3) as store:
        browser = Browser(captured(Feed(), store))
        browser.cookies["holdfast_capture"] = cookie
        async with browser.get() as call:
            await until(lambda: events_of(call.text), 60)
            print("reads", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
