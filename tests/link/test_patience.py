"""Telling a late reply from a late loop."""

from __future__ import annotations

from holdfast.link.patience import GRACE, MOST_EXCUSES, Patience


def test_a_loop_on_time_gets_one_glance_and_no_more() -> None:
    patience = Patience(0.25)
    again = patience.until(armed_for=10.0, now=10.001)
    assert again == 10.001 + GRACE
    assert patience.until(armed_for=again, now=again + 0.001) is None


def test_a_look_before_the_time_is_sent_back() -> None:
    patience = Patience(0.25)
    again = patience.until(armed_for=10.0, now=10.0)
    assert again is not None
    assert patience.until(armed_for=10.002, now=10.002) == again


def test_a_late_loop_is_forgiven_what_it_lost_up_to_one_deadline() -> None:
    assert Patience(0.25).until(armed_for=10.0, now=10.1) == 10.1 + GRACE + (10.1 - 10.0)
    assert Patience(0.25).until(armed_for=10.0, now=15.0) == 15.0 + GRACE + 0.25


def test_a_loop_that_is_always_late_is_not_forgiven_for_ever() -> None:
    patience = Patience(0.25)
    now, looks = 10.0, 0
    while (until := patience.until(armed_for=now, now=now + 1.0)) is not None:
        now, looks = until, looks + 1
    assert looks == MOST_EXCUSES


def test_progress_begins_anew() -> None:
    patience = Patience(0.25)
    assert patience.until(armed_for=10.0, now=11.0) is not None
    patience.reset()
    assert patience.until(armed_for=20.0, now=20.0) == 20.0 + GRACE
