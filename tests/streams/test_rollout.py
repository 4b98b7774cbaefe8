"""Which transport a new run gets: the same answer everywhere, and for ever."""

from __future__ import annotations

import pytest

from holdfast.streams.rollout import bucket, transport_of_new

# Computed once, with sha256sum: another answer would split the runs of two versions.
KNOWN = {"r1": 41, "run-1": 45, "order:42": 99, "Zoë 🪸": 11, "x" * 256: 93}


@pytest.mark.parametrize(("run_id", "place"), KNOWN.items())
def test_the_place_of_a_run_is_the_same_in_every_version(run_id: str, place: int) -> None:
    assert bucket(run_id) == place


def test_the_places_are_spread_evenly() -> None:
    places = [bucket(f"run-{number}") for number in range(20_000)]
    counts = [places.count(place) for place in range(100)]
    assert 140 < min(counts) <= max(counts) < 260


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99, 100])
def test_a_percentage_is_that_share_of_runs(percent: int) -> None:
    runs = [f"run-{number}" for number in range(10_000)]
    share = sum(transport_of_new(run, enabled=True, percent=percent) == "streams" for run in runs)
    assert abs(share / 100 - percent) < 2 if 0 < percent < 100 else share == percent * 100


def test_turning_it_up_takes_no_run_back() -> None:
    for number in range(500):
        answers = [
            transport_of_new(f"run-{number}", enabled=True, percent=percent)
            for percent in range(101)
        ]
        assert answers == sorted(answers), answers  # "pubsub" before "streams"


def test_switched_off_beats_any_percentage() -> None:
    assert transport_of_new("r", enabled=False, percent=100) == "pubsub"
