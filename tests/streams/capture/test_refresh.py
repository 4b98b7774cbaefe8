"""A page that was refreshed: its answer again, if that goes on and nobody reads it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.streams.capture.calls import KEY, Browser, Feed, captured, events_of, headers_of, last_id
from tests.streams.clients import until
from tests.streams.redis_stores import at_rest, opened, ttls

from holdfast.streams.capture import refresh, register
from holdfast.streams.capture.ids import Seal, capture_key
from holdfast.streams.capture.presence import Presence
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.publishing import runs
from holdfast.streams.select import close_hubs, hub_of

if TYPE_CHECKING:
    from holdfast.streams.store import EventStore
    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio


async def test_a_refreshed_page_gets_its_answer_again_from_the_start(
    browser: Browser, feed: Feed
) -> None:
    async with browser.get() as call:
        await until(lambda: call.status)
        feed.say("data: 1\n\n", "data: 2\n\n")
        await until(lambda: len(events_of(call.text)) == 2)
    async with browser.get() as again:
        await until(lambda: len(events_of(again.text)) == 2)
        feed.say("data: 3\n\n", None)
        await again.ended()
    assert [each.data for each in events_of(again.text)] == ["1", "2", "3"]
    assert len(feed.calls) == 1


async def test_it_may_be_refreshed_any_number_of_times(browser: Browser, feed: Feed) -> None:
    for _ in range(4):
        async with browser.get() as call:
            await until(lambda: feed.calls)
            if not events_of(call.text):
                feed.say("data: 1\n\n")
            await until(lambda: events_of(call.text))
    assert len(feed.calls) == 1


async def test_the_second_tab_calls_the_app_while_the_first_one_reads(
    browser: Browser, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "LEAVING", 0.1)
    feed.script("data: 1\n\n")
    async with browser.get() as first:
        await until(lambda: events_of(first.text))
        async with browser.get() as second:
            await until(lambda: events_of(second.text))
            assert headers_of(second)["holdfast-run"] != headers_of(first)["holdfast-run"]
    assert len(feed.calls) == 2


async def test_the_one_who_leaves_has_a_while_to_be_noticed(
    browser: Browser, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "LEAVING", 30.0)
    feed.script("data: 1\n\n")
    async with browser.get() as first:
        await until(lambda: events_of(first.text))
        async with browser.get() as again:
            await asyncio.sleep(0.1)
            assert again.status is None
            first.leave()
            await until(lambda: events_of(again.text))
    assert len(feed.calls) == 1


async def test_all_that_a_reader_may_have_is_waited_for_at_once(
    store: EventStore, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "LEAVING", 0.1)
    feed.script("data: 1\n\n")
    browser = Browser(captured(feed, store))
    async with browser.get() as old:
        await until(lambda: events_of(old.text))
        browser._app = captured(feed, store, secret_key=("a-newer-key-of-sixteen-or-more", KEY))
        async with browser.get() as new:
            await until(lambda: events_of(new.text))
            monkeypatch.setattr(refresh, "LEAVING", 300.0)
            async with browser.get() as again:
                old.leave()
                await until(lambda: events_of(again.text))
                assert headers_of(again)["holdfast-run"] == headers_of(old)["holdfast-run"]
    assert len(feed.calls) == 2


async def test_of_two_at_once_one_gets_it(
    browser: Browser, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "LEAVING", 0.1)
    feed.script("data: 1\n\n")
    async with browser.get() as call:
        await until(lambda: events_of(call.text))
    async with browser.get() as one, browser.get() as two:
        await until(lambda: events_of(one.text) and events_of(two.text))
        assert headers_of(one)["holdfast-run"] != headers_of(two)["holdfast-run"]
    assert len(feed.calls) == 2


async def test_a_page_that_could_not_be_served_is_no_reader(
    store: EventStore, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "LEAVING", 0.1)
    feed.script("data: 1\n\n")
    browser = Browser(captured(feed, store))
    async with browser.get() as call:
        await until(lambda: events_of(call.text))
    full, other = captured(feed, store, stream_max_subscribers=1), Browser(captured(feed, store))
    away = Browser(full)
    away.cookies = dict(browser.cookies)
    async with other.get("/feed?other") as one:
        await until(lambda: events_of(one.text))
        async with away.get() as refused:
            await refused.ended()
    assert events_of(refused.text) == []
    async with browser.get() as again:
        await until(lambda: events_of(again.text))
    assert headers_of(again)["holdfast-run"] == headers_of(call)["holdfast-run"]


async def test_a_page_that_left_while_it_was_looked_for_is_no_reader(
    browser: Browser, feed: Feed, store: EventStore
) -> None:
    feed.script("data: 1\n\n")
    async with browser.get() as call:
        await until(lambda: events_of(call.text))
    run_id = headers_of(call)["holdfast-run"]
    found = register.Register(store, register_of(browser))
    await _nobody_reads(found, run_id)
    for turns in range(40):
        # Cancelled at each place where it waits.
        presence = Presence(found, run_id)
        task = asyncio.create_task(refresh._is_ours(presence))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not task.cancel():
            presence.left()
        await asyncio.wait({task})
        await _nobody_reads(found, run_id)


async def _nobody_reads(found: register.Register, run_id: str) -> None:
    async with asyncio.timeout(10):
        while (await found.look())[run_id].readers:
            await asyncio.sleep(0.01)


async def test_an_answer_that_is_over_is_not_given_again(browser: Browser, feed: Feed) -> None:
    feed.script("data: 1\n\n", None)
    for _ in range(2):
        async with browser.get() as call:
            await call.ended()
        assert [each.data for each in events_of(call.text)] == ["1"]
    assert len(feed.calls) == 2


@pytest.mark.parametrize("path", ["/feed?b=1", "/feed/", "/feed/x"])
async def test_an_answer_of_another_address_is_not_given(
    browser: Browser, feed: Feed, path: str
) -> None:
    feed.script("data: 1\n\n")
    async with browser.get("/feed") as call:
        await until(lambda: events_of(call.text))
    async with browser.get(path) as other:
        await until(lambda: events_of(other.text))
    assert len(feed.calls) == 2


async def test_a_post_is_never_given_an_answer_that_there_is(browser: Browser, feed: Feed) -> None:
    feed.script("data: 1\n\n")
    async with browser.get() as call:
        await until(lambda: events_of(call.text))
    async with browser.get(method="POST") as other:
        await until(lambda: events_of(other.text))
    assert len(feed.calls) == 2


async def test_a_long_register_is_begun_anew_when_nothing_in_it_goes_on(
    browser: Browser, feed: Feed, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "MANY", 3)
    feed.script("data: 1\n\n", None)
    lengths = []
    for _ in range(5):
        async with browser.get() as call:
            await call.ended()
        lengths.append(len(await store.get_events(register_of(browser))))
    assert max(lengths) == 3


def register_of(browser: Browser) -> str:
    """The name of the register of one browser at ``/feed``."""
    asked = (b"GET", b"site.test", b"/feed", b"", b"")
    reader = f"cookie:{browser.cookies['holdfast_capture']}"
    return Seal(capture_key(KEY), asked, reader, b"").register


@pytest.mark.slow
async def test_a_register_is_kept_while_its_answer_goes_on(
    feed: Feed, redis: RedisServer, key_prefix: str
) -> None:
    async with opened(redis.url, key_prefix, stream_retention=6) as store:
        browser = Browser(captured(feed, store, stream_retention=6))
        async with browser.get() as call:
            await until(lambda: call.status)
            feed.say("data: 1\n\n")
            await until(lambda: events_of(call.text))
            left = [6001]

            def renewed() -> bool:
                left.append(ttls(redis, store, register_of(browser))[0])
                return left[-1] > left[-2]

            await until(renewed)
        await runs.close_runs(store)
        await close_hubs(store)


async def test_while_redis_is_away_a_refreshed_page_calls_the_app(
    feed: Feed, fresh_redis: RedisServer, key_prefix: str
) -> None:
    feed.script("data: 1\n\n")
    async with opened(fresh_redis.url, key_prefix, redis_timeout=5) as store:
        browser = Browser(captured(feed, store))
        async with browser.get() as call:
            await until(lambda: events_of(call.text))
        fresh_redis.kill()
        await until(lambda: not store.available)
        async with browser.get() as again:
            await until(lambda: events_of(again.text))
        assert len(feed.calls) == 2
        await runs.close_runs(store)
        await close_hubs(store)


async def test_while_redis_is_away_answers_pass_and_are_recorded_later(
    feed: Feed, fresh_redis: RedisServer, key_prefix: str
) -> None:
    async with opened(fresh_redis.url, key_prefix, redis_timeout=5) as store:
        browser = Browser(captured(feed, store))
        fresh_redis.kill()
        await until(lambda: not store.available)
        async with browser.get() as call:
            await until(lambda: call.status)
            feed.say("data: 1\n\n")
            await until(lambda: events_of(call.text))
        last = events_of(call.text)[-1].id
        feed.say("data: 2\n\n")
        fresh_redis.start()
        async with browser.get(last=last) as again:
            await until(lambda: events_of(again.text))
            await until(lambda: store.available)
            feed.say("data: 3\n\n", None)
            await again.ended()
        assert [each.data for each in events_of(again.text)] == ["2", "3"]
        assert len(feed.calls) == 1
        run_id = headers_of(call)["holdfast-run"]
        await until(lambda: store.pending(run_id) is None)
        assert [e.data for e in await store.get_events(run_id)][:3] == [1, 2, 3]
        await close_hubs(store)


@pytest.mark.slow
async def test_who_comes_back_while_nobody_can_say_is_held(
    feed: Feed, fresh_redis: RedisServer, key_prefix: str
) -> None:
    async with (
        opened(fresh_redis.url, key_prefix, redis_timeout=1) as store,
        opened(fresh_redis.url, key_prefix, redis_timeout=1) as other,
    ):
        browser = Browser(captured(feed, store))
        async with browser.get() as call:
            await until(lambda: call.status)
            feed.say("data: 1\n\n", "data: 2\n\n")
            await until(lambda: len(events_of(call.text)) == 2)
        had = events_of(call.text)[0].id
        fresh_redis.freeze()
        await until(lambda: not store.available)
        elsewhere = Browser(captured(feed, other))
        elsewhere.cookies = browser.cookies
        async with elsewhere.get(last=had) as again:
            await until(lambda: ": waiting\n" in again.text, 20)
            assert events_of(again.text) == []
            fresh_redis.thaw()
            await until(lambda: events_of(again.text), 20)
        assert [each.data for each in events_of(again.text)] == ["2"]
        assert len(feed.calls) == 1
        for each in (store, other):
            await runs.close_runs(each)
            await close_hubs(each)


async def test_what_ended_while_redis_is_away_has_ended(
    feed: Feed, fresh_redis: RedisServer, key_prefix: str
) -> None:
    async with opened(fresh_redis.url, key_prefix, redis_timeout=5) as store:
        browser = Browser(captured(feed, store))
        fresh_redis.kill()
        await until(lambda: not store.available)
        feed.script("data: 1\n\n", None)
        async with browser.get() as call:
            await call.ended()
        async with browser.get(last=last_id(call.text)) as again:
            await again.ended()
        assert again.status == 204
        feed.script("data: 1\n\n", ZeroDivisionError())
        async with browser.get(method="POST") as broken:
            with pytest.raises(ZeroDivisionError):
                await broken.ended()
            broken.task = asyncio.create_task(asyncio.sleep(0))
            await broken.task
        await close_hubs(store)


async def test_what_no_journal_takes_still_reaches_the_client(
    feed: Feed, fresh_redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"redis_timeout": 5, "stream_journal": 4}
    async with opened(fresh_redis.url, key_prefix, **options) as store:
        browser = Browser(captured(feed, store))
        async with browser.get() as call:
            await until(lambda: call.status)
            feed.say("data: 1\n\n")
            await until(lambda: events_of(call.text))
            fresh_redis.kill()
            await until(lambda: not store.available)
            feed.say(*[f"data: {number}\n\n" for number in range(2, 10)], None)
            await call.ended()
        assert [int(each.data) for each in events_of(call.text)] == [*range(1, 10)]
        assert "can be recorded no further" in caplog.text
        await close_hubs(store)


async def test_what_no_journal_takes_reaches_the_client_when_redis_is_back_too(
    feed: Feed, fresh_redis: RedisServer, key_prefix: str
) -> None:
    options = {"redis_timeout": 1, "stream_journal": 2}
    async with opened(fresh_redis.url, key_prefix, **options) as store, at_rest(store):
        async with Browser(captured(feed, store)).get() as call:
            await until(lambda: call.status)
            feed.say("data: 1\n\n")
            await until(lambda: events_of(call.text))
            fresh_redis.freeze()
            await until(lambda: not store.available)
            feed.say("data: 2\n\n")
            await until(lambda: events_of(call.text)[1:])
            feed.say("data: 3\n\n")
            await until(lambda: events_of(call.text)[2:])
            feed.say("data: 4\n\n")
            await until(lambda: events_of(call.text)[3:])
            fresh_redis.thaw()
            run_id = headers_of(call)["holdfast-run"]
            await until(lambda: store.available and store.pending(run_id) is None, 20)
            (reader,) = hub_of(store).subscribers
            assert isinstance(reader, Subscription)
            await until(lambda: not reader.cursor.seen, 20)
            feed.say("data: 5\n\n", None)
            await call.ended()
        assert [each.data for each in events_of(call.text)] == ["1", "2", "3", "4", "5"]
