"""The table of transitions, whole: every pair, and the runs that matter."""

from __future__ import annotations

import itertools

import pytest

from holdfast.link.state import TABLE, Event, LinkState, after, event_of_probe

S, E = LinkState, Event


@pytest.mark.parametrize(("state", "event"), list(itertools.product(LinkState, Event)))
def test_a_pair_outside_the_table_changes_nothing(state: LinkState, event: Event) -> None:
    assert after(state, event) is TABLE.get((state, event), state)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(LinkState, Event)))
def test_up_is_reached_through_recovery_only(state: LinkState, event: Event) -> None:
    if after(state, event) is S.UP and state is not S.UP:
        assert (state, event) == (S.RECOVERING, E.RECOVERED)


@pytest.mark.parametrize("event", [each for each in Event if each is not E.HELD])
def test_down_lasts_until_the_hold_down_is_over(event: Event) -> None:
    assert after(S.DOWN, event) is S.DOWN


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([E.PROBE_OK, E.RECOVERED], S.UP),
        ([E.PROBE_FAILED], S.DOWN),
        ([E.PROBE_OK, E.RECOVERED, E.FAILED], S.DOWN),
        ([E.PROBE_OK, E.RECOVERED, E.TIMEOUT], S.SUSPECT),
        ([E.PROBE_OK, E.RECOVERED, E.TIMEOUT, E.PROBE_OK, E.RECOVERED], S.UP),
        ([E.PROBE_OK, E.RECOVERED, E.TIMEOUT, E.PROBE_FAILED], S.DOWN),
        ([E.PROBE_FAILED, E.HELD, E.RECOVERY_FAILED], S.DOWN),
        ([E.PROBE_FAILED, E.HELD, E.RECOVERED], S.UP),
    ],
)
def test_runs(events: list[Event], end: LinkState) -> None:
    state = S.STARTING
    for event in events:
        state = after(state, event)
    assert state is end


@pytest.mark.parametrize(
    ("state", "failure", "held", "event"),
    [
        (S.STARTING, None, True, E.PROBE_OK),
        (S.STARTING, "timeout", True, E.PROBE_FAILED),
        (S.UP, None, True, E.PROBE_OK),
        (S.UP, "timeout", True, E.TIMEOUT),
        (S.UP, "readonly", True, E.PROBE_FAILED),
        (S.SUSPECT, "timeout", True, E.PROBE_FAILED),
        (S.DOWN, None, False, E.PROBE_OK),
        (S.DOWN, None, True, E.HELD),
        (S.DOWN, "refused", True, E.PROBE_FAILED),
    ],
)
def test_what_a_probe_means(
    state: LinkState, failure: str | None, held: bool, event: Event
) -> None:
    assert event_of_probe(state, failure, held=held) is event
