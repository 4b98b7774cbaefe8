"""The short form of the storm, and its judge; ``python -m tests.outages.storm`` is the long one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.outages.histories import judge_reader, judge_stored
from tests.outages.storm import storm

if TYPE_CHECKING:
    from pathlib import Path

    from tests.outages.histories import Seen


@pytest.mark.slow
async def test_whatever_befalls_redis_each_acknowledged_event_comes_once_or_is_told_as_missing(
    tmp_path: Path,
) -> None:
    outcome = await storm(runs=20, faults=["pause", "lose"], folder=tmp_path)
    assert not outcome.wrong, str(outcome)
    # The faults bit: something waited, somebody moved meanwhile, and something was lost.
    assert outcome.provisional > 0
    assert outcome.moved > 0
    assert outcome.told["reset"] > 0


def a(*numbers: int) -> list[Seen]:
    return [("a", n) for n in numbers]


@pytest.mark.parametrize(
    ("history", "wrong"),
    [
        pytest.param(a(1, 2, 3), [], id="all"),
        pytest.param(a(1, 3), ["a: 1 events from 2 to 2 missing before 3"], id="a hole"),
        pytest.param(a(1, 2), ["a: 1 events from 3 to 3 never came"], id="no end"),
        pytest.param([], ["a: 3 events from 1 to 3 never came"], id="nothing"),
        pytest.param(a(1, 2, 2, 3), ["a: 2 after 2"], id="twice"),
        pytest.param(a(1, 2, 1, 2, 3), ["a: 1 after 2"], id="anew without a word"),
        pytest.param([*a(1), "gap", *a(3)], [], id="a gap where it is missing"),
        pytest.param(
            [*a(1), "gap", *a(2), *a(4)],
            ["a: 1 events from 3 to 3 missing before 4"],
            id="a gap elsewhere",
        ),
        pytest.param([*a(1, 2), "gap", *a(1, 3)], ["a: 1 after 2"], id="a gap begins nothing anew"),
        pytest.param([*a(1, 2), "reset", *a(1, 2, 3)], [], id="anew after a reset"),
        pytest.param([*a(1, 2), "reset", *a(3)], [], id="on after a reset"),
        pytest.param([*a(1, 2), "reset"], [], id="lost at the end"),
        pytest.param([*a(1, 2), "reset", *a(1, 3)], [], id="lost, and had before"),
        pytest.param(
            [*a(1), "reset", *a(1, 3)],
            ["a: 1 events from 2 to 2 missing before 3"],
            id="a hole after a reset",
        ),
    ],
)
def test_a_history_is_judged(history: list[Seen], wrong: list[str]) -> None:
    acknowledged = max(3, *(seen[1] for seen in history if isinstance(seen, tuple)), 0)
    assert judge_reader(history, {"a": acknowledged}) == wrong


def test_each_producer_is_judged_by_itself() -> None:
    history: list[Seen] = [("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    assert judge_reader(history, {"a": 2, "b": 2}) == []
    assert judge_reader(history, {"a": 2, "b": 3}) == ["b: 1 events from 3 to 3 never came"]


@pytest.mark.parametrize(
    ("stored", "wrong"),
    [
        pytest.param([1, 2], [], id="all"),
        pytest.param([2, 1], ["a: stored twice, or not in order"], id="out of order"),
        pytest.param([1, 2, 2], ["a: stored twice, or not in order"], id="twice"),
        pytest.param([2], ["a: 1 events from 1 to 1 acknowledged and not stored"], id="missing"),
    ],
)
def test_what_is_stored_is_judged(stored: list[int], wrong: list[str]) -> None:
    assert judge_stored([("a", n) for n in stored], {"a": 2}) == wrong
