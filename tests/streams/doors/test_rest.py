"""Pages of history: bounds, borders, sizes, and a run that only this process knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from starlette.datastructures import QueryParams
from tests.streams.patchy import PatchyStore

from holdfast.streams import problems
from holdfast.streams.doors import rest
from holdfast.streams.doors.rest import MAX_PAGE_BYTES, Query
from holdfast.streams.event import decode_data
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from holdfast.streams.store import EventStore


async def page(store: EventStore, **params: str) -> Any:
    query = rest.parse(QueryParams(params))
    assert isinstance(query, Query)
    answer = await rest.serve(store, "r", query)
    assert answer.status_code == 200
    return decode_data(bytes(answer.body))


async def filled(count: int, size: int = 1) -> MemoryEventStore:
    store = MemoryEventStore()
    draft = store.draft("t", "x" * size)
    await store.append("r", [draft] * count)
    return store


async def test_default_page_and_its_cap() -> None:
    store = await filled(1200)
    first = await page(store)
    assert (len(first["events"]), first["has_more"]) == (100, True)
    assert len((await page(store, limit="1000000000"))["events"]) == 1000
    assert len((await page(store, limit="1" + "0" * 30))["events"]) == 1000


async def test_both_ends_are_inclusive_and_next_id_is_the_next_start() -> None:
    store = await filled(10)
    ids = [event["id"] for event in (await page(store))["events"]]
    some = await page(store, start_id=ids[2], end_id=ids[6], limit="3")
    assert [event["id"] for event in some["events"]] == ids[2:5]
    assert (some["has_more"], some["next_id"]) == (True, ids[5])
    rest_of_it = await page(store, start_id=ids[5], end_id=ids[6], limit="3")
    assert [event["id"] for event in rest_of_it["events"]] == ids[5:7]
    assert (rest_of_it["has_more"], rest_of_it["next_id"]) == (False, None)
    exact = await page(store, limit="10")
    assert (len(exact["events"]), exact["next_id"]) == (10, None)


async def test_start_after_end_is_an_empty_page() -> None:
    store = await filled(3)
    empty = await page(store, start_id="9999999999999-0", end_id="5-0")
    assert (empty["events"], empty["has_more"], empty["next_id"]) == ([], False, None)
    assert empty["status"] == "open"


@pytest.mark.parametrize("size", [1_000_000, 3_000_000, 9_000_000])
async def test_page_of_large_events_ends_early_and_says_that_there_is_more(size: int) -> None:
    store = MemoryEventStore(max_event_bytes=1 << 25, max_run_bytes=1 << 30)
    await store.append("r", [store.draft("t", "x" * size)] * 20)
    start, seen = "0", 0
    while start:
        some = await page(store, start_id=start)
        sizes = [len(event["data"]) for event in some["events"]]
        assert sizes
        assert sum(sizes[1:]) <= MAX_PAGE_BYTES
        seen += len(sizes)
        start = some["next_id"]
    assert seen == 20


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"start_id": "$"}, problems.INVALID_ID),
        ({"end_id": "x"}, problems.INVALID_ID),
        ({"limit": "0"}, problems.INVALID_LIMIT),
    ],
)
def test_malformed_query_is_told(params: dict[str, str], problem: problems.Problem) -> None:
    assert rest.parse(QueryParams(params)) is problem


async def test_run_born_in_an_outage_is_shown_whole_and_any_other_is_503() -> None:
    store = PatchyStore()
    store.away = True
    query = rest.parse(QueryParams({}))
    assert isinstance(query, Query)
    answer = await rest.serve(store, "r", query)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    store.own(count=3)
    body = await page(store)
    assert [event["id"] for event in body["events"]] == [f"0-0~own.{n}" for n in (1, 2, 3)]
    assert (body["status"], body["has_more"]) == ("open", False)
    store.come_back()
    store.away = True
    store.own()
    assert (await rest.serve(store, "r", query)).status_code == 503


@pytest.mark.parametrize("params", [{"limit": "2"}, {"end_id": "0"}, {"start_id": "0-0~own.2"}])
async def test_no_part_is_shown_of_a_run_born_in_an_outage(params: dict[str, str]) -> None:
    """Its ids are no places in the log yet: the next page could not begin where one ended."""
    store = PatchyStore()
    store.away = True
    store.own(count=3)
    query = rest.parse(QueryParams(params))
    assert isinstance(query, Query)
    assert (await rest.serve(store, "r", query)).status_code == 503
    assert len((await page(store, limit="3", start_id="0"))["events"]) == 3
