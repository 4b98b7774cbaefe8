"""A publisher as its caller sees it: verbs, ends and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from holdfast.errors import EventTooLarge, InvalidEvent, RunEnded
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.stores.memory import MemoryEventStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryEventStore:
    return MemoryEventStore()


async def told(store: MemoryEventStore) -> list[tuple[str, Any]]:
    return [(event.type, event.data) for event in await store.get_events("run")]


async def test_the_verbs_of_a_workflow_have_one_form(store: MemoryEventStore) -> None:
    run = RunPublisher("run", store=store)
    await run.emit("ping")
    await run.node_output("writer", {"text": "x"})
    await run.workflow_complete([1])
    assert await told(store) == [
        ("ping", None),
        ("node_output", {"node": "writer", "output": {"text": "x"}}),
        ("workflow_complete", {"output": [1]}),
    ]
    assert repr(run) == "<RunPublisher 'run' ended>"
    with pytest.raises(RunEnded):
        await run.emit("late")


async def test_an_error_is_told_by_type_and_message_alone(store: MemoryEventStore) -> None:
    await RunPublisher("run", store=store).workflow_error(KeyError("secret.py"))
    ((_, data),) = await told(store)
    assert data == {"error": {"type": "KeyError", "message": "'secret.py'"}}


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("plain words", "Error", "plain words"),
        (ValueError("bad \ud800 name"), "ValueError", "bad ? name"),
        (ValueError("x" * 2_000_000), "ValueError", "x" * 10_000),
    ],
    ids=["text", "surrogate", "long"],
)
async def test_no_message_costs_a_run_its_end(
    store: MemoryEventStore, error: str | Exception, kind: str, message: str
) -> None:
    await RunPublisher("run", store=store).workflow_error(error)
    ((_, data),) = await told(store)
    assert data == {"error": {"type": kind, "message": message}}


async def test_a_block_that_ends_well_completes_its_run(store: MemoryEventStore) -> None:
    async with RunPublisher("run", store=store) as run:
        await run.emit("t", 1)
    assert await told(store) == [("t", 1), ("workflow_complete", {"output": None})]


async def test_a_block_that_ended_its_run_itself_adds_nothing(store: MemoryEventStore) -> None:
    async with RunPublisher("run", store=store) as run:
        await run.workflow_complete("mine")
    assert await told(store) == [("workflow_complete", {"output": "mine"})]


async def test_a_block_whose_run_another_ended_adds_nothing(store: MemoryEventStore) -> None:
    async with RunPublisher("run", store=store) as run:
        await run.emit("t", 1)
        await RunPublisher("run", store=store).workflow_complete("theirs")
    assert len(await told(store)) == 2


async def test_an_exception_ends_the_run_with_an_error_and_passes(store: MemoryEventStore) -> None:
    with pytest.raises(ZeroDivisionError):
        async with RunPublisher("run", store=store):
            _ = 1 / 0
    assert (await told(store))[-1][1]["error"]["type"] == "ZeroDivisionError"


async def test_a_cancelled_block_ends_its_run(store: MemoryEventStore) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with RunPublisher("run", store=store):
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (await told(store))[-1][1]["error"]["type"] == "CancelledError"


async def test_what_happened_in_the_block_is_what_its_caller_hears_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny = MemoryEventStore(max_event_bytes=10)
    with (
        pytest.raises(ZeroDivisionError),
        caplog.at_level(logging.ERROR, "holdfast.streams"),
    ):
        async with RunPublisher("run", store=tiny):
            _ = 1 / 0
    assert "the run 'run' could not be ended" in caplog.text
    with pytest.raises(EventTooLarge):
        async with RunPublisher("run2", store=tiny):
            pass


async def test_a_refused_event_leaves_the_run_as_it_was(store: MemoryEventStore) -> None:
    run = RunPublisher("run", store=store)
    await run.emit("t", 1)
    with pytest.raises(InvalidEvent):
        await run.emit("run_lost", 1)
    with pytest.raises(InvalidEvent):
        await run.emit("t", float("nan"))
    await run.emit("t", 2)
    assert await told(store) == [("t", 1), ("t", 2)]


@pytest.mark.parametrize(("run_id", "owner"), [("", None), ("r", "alice")])
def test_a_wrong_run_or_owner_is_refused_at_once(run_id: str, owner: str | None) -> None:
    with pytest.raises(InvalidEvent):
        RunPublisher(run_id, owner=owner, store=MemoryEventStore())


async def test_without_a_store_it_publishes_to_the_default_one() -> None:
    from holdfast import EventStore

    event = await RunPublisher("run").emit("t", 1)
    assert await EventStore.from_settings().get_events("run") == [event]


async def test_a_call_of_many_at_once_keeps_its_order(store: MemoryEventStore) -> None:
    run = RunPublisher("run", store=store)
    await asyncio.gather(*(run.emit("t", n) for n in range(90)), run.workflow_complete())
    assert [data for _, data in await told(store)][:-1] == list(range(90))
    with pytest.raises(RunEnded):
        await run.emit("t", 1)
