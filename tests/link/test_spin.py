"""When a reply is looked for, and when it is slept for."""

from __future__ import annotations

from holdfast.link.spin import LEAST_SECONDS, MOST_REST, MOST_SECONDS, Spin


def looks(spin: Spin, commands: int, *, near: bool) -> int:
    """Return at how many of so many commands the reply is looked for."""
    found = 0
    for _ in range(commands):
        if spin.worth():
            found += 1
            (spin.caught if near else spin.missed)()
    return found


def test_a_redis_nearby_is_always_looked_for() -> None:
    assert looks(Spin(), 1000, near=True) == 1000


def test_a_distant_redis_is_soon_looked_for_at_one_command_in_hundreds() -> None:
    spin = Spin()
    assert looks(spin, 1 << MOST_REST, near=False) <= MOST_REST + 1
    assert looks(spin, 100 << MOST_REST, near=False) <= 101


def test_a_single_late_reply_costs_one_look() -> None:
    spin = Spin()
    assert looks(spin, 10, near=True) == 10
    spin.missed()
    assert not spin.worth()
    assert looks(spin, 10, near=True) == 10


def test_a_redis_that_came_nearer_is_found_out() -> None:
    spin = Spin()
    looks(spin, 100 << MOST_REST, near=False)
    assert looks(spin, 2 << MOST_REST, near=True) >= 1 << MOST_REST
    spin.missed()
    assert not spin.worth()
    assert spin.worth(), "what was missed long ago counts no more"


def test_where_some_are_late_again_and_again_the_others_are_soon_slept_for_too() -> None:
    spin, found = Spin(), 0
    for _ in range(1000):
        # Nine of ten come in time.
        found += looks(spin, 1, near=found % 10 != 0)
    assert found < 300


def test_where_few_are_late_all_others_are_looked_for() -> None:
    spin, found = Spin(), 0
    for _ in range(10_000):
        found += looks(spin, 1, near=found % 100 != 0)
    assert found > 9_500


def test_a_look_lasts_for_what_replies_take_and_some_more() -> None:
    spin = Spin()
    for _ in range(100):
        spin.caught(LEAST_SECONDS / 2)
    assert LEAST_SECONDS < spin.seconds < LEAST_SECONDS * 2
    for _ in range(100):
        spin.caught(LEAST_SECONDS / 100)
    assert LEAST_SECONDS <= spin.seconds < LEAST_SECONDS * 1.1
    for _ in range(100):
        spin.caught(MOST_SECONDS)
    assert MOST_SECONDS * 0.9 < spin.seconds <= MOST_SECONDS


def test_after_a_late_reply_the_next_is_looked_for_as_long_as_any() -> None:
    spin = Spin()
    for _ in range(100):
        spin.caught(0.0)
    spin.missed()
    assert spin.seconds == MOST_SECONDS
