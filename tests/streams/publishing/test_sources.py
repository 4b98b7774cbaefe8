"""What a run can be made of, read as events: every kind of item, and text cut anywhere."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import StreamEvent
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.publishing.sources import EventStreamText, check_source, discard, feed
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
EVENTS = "text/event-stream"


async def published(*items: Any, media_type: str | None = None) -> list[tuple[str, Any]]:
    store = MemoryEventStore()

    async def source() -> AsyncIterator[Any]:
        for item in items:
            yield item

    await feed(RunPublisher("run", store=store), source(), media_type)
    return [(event.type, event.data) for event in await store.get_events("run")]


async def test_each_kind_of_item_is_an_event() -> None:
    event = StreamEvent("7-0", "other", "token", {"n": 1}, datetime.now(UTC))
    items = [event, ("node", [1]), {"a": 1}, [1, 2], 7, None, True, "text", b"bytes"]
    assert await published(*items) == [
        ("token", {"n": 1}),
        ("node", [1]),
        *(("message", value) for value in ({"a": 1}, [1, 2], 7, None, True, "text", "bytes")),
    ]


async def test_bytes_are_characters_wherever_they_were_cut() -> None:
    raw = "Zoë 🪸".encode()
    pieces = await published(*(raw[n : n + 1] for n in range(len(raw))), b"\xff", b"\xe2")
    assert "".join(data for _, data in pieces) == "Zoë 🪸\ufffd\ufffd"
    assert await published("", b"") == []


async def test_text_of_an_event_stream_is_its_events() -> None:
    text = (
        '\ufeffevent: token\nid: 5\ndata: {"n":1}\n\n'
        ": a comment\nretry: 10\ndata:two\ndata: lines\r\n\r\n"
        "event: empty\n\n"
        "data: NaN\r\rdata\n\ndata: 1\r\ndata: 2\r\n\r\nevent:x\ndata: 1\n"
    )
    messages = ["two\nlines", "NaN", "", "1\n2"]
    expected = [("token", {"n": 1}), *(("message", data) for data in messages)]
    assert await published(text, media_type=f"{EVENTS}; charset=utf-8") == expected
    assert await published(*text, media_type=EVENTS.upper()) == expected
    assert await published(text.encode(), ("own", 1), media_type=EVENTS) == [*expected, ("own", 1)]


async def test_a_last_carriage_return_ends_its_line() -> None:
    assert await published("data: 1\n\r", media_type=EVENTS) == [("message", 1)]
    assert await published("data: 1\r", media_type=EVENTS) == []


@settings(deadline=None)  # a busy machine is no error
@given(st.text(alphabet="ad:\n\r \u2028{}1\ufeffé", max_size=60), st.lists(st.integers(0, 60)))
def test_how_text_is_cut_changes_nothing(text: str, cuts: list[int]) -> None:
    def read(pieces: list[bytes]) -> list[Any]:
        reader = EventStreamText()
        found = [made for piece in pieces for made in reader.feed(piece)]
        return [*found, *reader.rest()]

    raw = text.encode()
    at = sorted({0, len(raw), *(cut for cut in cuts if cut <= len(raw))})
    pieces = [raw[a:b] for a, b in itertools.pairwise(at)]
    assert read(pieces) == read([raw])


async def test_a_function_of_the_publisher_may_publish_or_yield() -> None:
    store = MemoryEventStore()

    async def publish(run: RunPublisher) -> str:
        await run.emit("t", 1)
        return "ignored"

    async def yields(run: RunPublisher) -> AsyncIterator[Any]:
        yield "t", run.run_id

    for function in (publish, yields):
        await feed(RunPublisher("run", store=store), function)
    assert [event.data for event in await store.get_events("run")] == [1, "run"]


async def test_an_iterator_is_closed_also_where_it_is_not_needed() -> None:
    closed = []

    async def source() -> AsyncIterator[Any]:
        try:
            yield 1
            yield float("nan")
        finally:
            closed.append(1)

    with pytest.raises(ValueError, match="JSON"):
        await feed(RunPublisher("run", store=MemoryEventStore()), source())
    assert closed == [1]
    begun = source()
    await anext(begun)
    await discard(begun)
    await discard(lambda run: None)
    assert closed == [1, 1]


async def test_what_no_run_can_be_made_of_is_refused() -> None:
    async def publish() -> None: ...

    for source in ([1], "text", None, iter([1])):
        with pytest.raises(TypeError, match="coroutine function of its publisher"):
            check_source(source)
    with pytest.raises(TypeError, match="the coroutine function itself"):
        check_source(publish())
