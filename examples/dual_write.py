"""A run on Streams whose events also reach a subscriber from before: the middle of a move.

    HOLDFAST_REDIS_URL=redis://localhost:6379/0 HOLDFAST_STREAM_DUAL_WRITE=true \
        python examples/dual_write.py

The subscriber knows nothing of holdfast; the history is there for everybody who comes later.
"""

import asyncio
import json
import uuid

from redis import Redis

from holdfast import EventStore, RunPublisher, Settings, aclose


async def main() -> None:
    """Publish a run, and show what an old subscriber and a new reader get of it."""
    settings = Settings()
    if settings.redis_url is None or not settings.stream_dual_write:
        raise SystemExit("set HOLDFAST_REDIS_URL and HOLDFAST_STREAM_DUAL_WRITE=true")
    run_id = f"example-{uuid.uuid4().hex[:8]}"
    channel = settings.key_prefix + settings.stream_channel.replace("{run_id}", run_id)

    with Redis.from_url(settings.redis_url.get_secret_value()) as redis, redis.pubsub() as old:
        old.subscribe(channel)
        old.get_message(timeout=5)  # the confirmation
        async with RunPublisher(run_id) as run:
            for word in ("one", "two", "three"):
                await run.emit("word", {"text": word})
        for _ in range(4):
            message = old.get_message(timeout=5)
            print("subscriber:", json.loads(message["data"])["type"] if message else "nothing")

    for event in await EventStore.from_settings().get_events(run_id):
        print("history:   ", event.type, event.data)
    await aclose()


if __name__ == "__main__":
    asyncio.run(main())
