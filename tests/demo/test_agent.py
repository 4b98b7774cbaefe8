"""What the agent tells: its events are numbered, complete, and paced."""

from __future__ import annotations

import itertools
import time

import pytest

from holdfast.demo.agent import Event, Say, work
from holdfast.demo.tasks import TASKS


async def events_of(name: str, *, rounds: int = 1) -> list[Event]:
    return [event async for event in work(TASKS[name], rounds=rounds, speed=1e9)]


def numbers(events: list[Event]) -> list[int]:
    return [data["n"] for _, data in events]


@pytest.mark.anyio
@pytest.mark.parametrize("name", TASKS)
async def test_every_event_carries_its_number_from_one(name: str) -> None:
    events = await events_of(name)
    assert numbers(events) == list(range(1, len(events) + 1))
    assert len(events) > 200


@pytest.mark.anyio
@pytest.mark.parametrize("name", TASKS)
async def test_only_the_last_event_ends_the_run(name: str) -> None:
    kinds = [kind for kind, _ in await events_of(name)]
    assert kinds.index("workflow_complete") == len(kinds) - 1


@pytest.mark.anyio
@pytest.mark.parametrize("name", TASKS)
async def test_the_tokens_together_are_the_answer(name: str) -> None:
    tokens = [data["text"] for kind, data in await events_of(name) if kind == "token"]
    assert "".join(tokens) == "".join(step.text for step in TASKS[name].steps if type(step) is Say)


@pytest.mark.anyio
async def test_each_tool_call_has_its_result() -> None:
    events = await events_of("checkout", rounds=2)
    calls = [data["call"] for kind, data in events if kind == "tool_call"]
    results = [data["call"] for kind, data in events if kind == "tool_result"]
    assert calls == results == list(range(1, len(calls) + 1))


@pytest.mark.anyio
async def test_more_rounds_are_a_longer_run() -> None:
    once, thrice = await events_of("walk"), await events_of("walk", rounds=3)
    assert len(thrice) > 2.9 * len(once)
    assert numbers(thrice) == list(range(1, len(thrice) + 1))


@pytest.mark.anyio
async def test_the_pace_is_kept_at_any_speed() -> None:
    begun = time.monotonic()
    async for _ in work(TASKS["walk"], speed=40):
        pass
    assert 0.3 < time.monotonic() - begun < 10


def test_a_real_run_takes_about_half_a_minute() -> None:
    from holdfast.demo.agent import _story

    for task in TASKS.values():
        pauses = [pause for pause, _, _ in _story(task, 1)]
        assert 15 < sum(pauses) < 40
        assert max(itertools.pairwise(pauses), key=sum) < (3, 3)
