"""The judges of the matrix: each history here has one thing wrong with it, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.matrix.history import Act, Frame, Mode, Process, Story
from tests.matrix.invariants import judge, quiet_and_clean, told_loss


def story(*acts: Act, mode: Mode = "local", processes: int = 1, loses: bool = False) -> Story:
    return Story(mode, processes, loses, acts=list(acts))


def shown(**data: str) -> dict[str, Any]:
    return {"available": True, "degraded": None, "data": data}


UNAVAILABLE: dict[str, Any] = {"available": False, "degraded": None, "data": {}}
LOGIN = Act("before", "login", 200, cookie="set", had_cookie=False, argument=("user_id", "7"))
WRITE = Act("before", "write", 200, argument=("k", "1"))
LOGOUT = Act("during", "logout", 200, cookie="deleted")


def read(phase: Any, at: int = 0, **data: str) -> Act:
    return Act(phase, "read", 200, at=at, body=shown(**data))


def steal(phase: Any, at: int = 0, **data: str) -> Act:
    return Act(phase, "steal", 200, at=at, body=shown(**data))


def written(value: str, status: int = 200, phase: Any = "during", **more: Any) -> Act:
    return Act(phase, "write", status, argument=("k", value), **more)


def issue() -> Act:
    return Act("before", "issue", 200, body={"state": "s"})


def consume(phase: Any, status: int) -> Act:
    return Act(phase, "consume", status, argument="s")


WELL = {
    "an acknowledged write is there": story(LOGIN, WRITE, read("after", user_id="7", k="1")),
    "a refused write may have happened": story(
        LOGIN, WRITE, written("2", 503), read("after", user_id="7", k="2"), mode="readonly"
    ),
    "a refused write may not have happened": story(
        LOGIN, WRITE, written("2", 503), read("after", user_id="7", k="1"), mode="readonly"
    ),
    "closed refuses": story(LOGIN, Act("during", "read", 503), mode="closed"),
    "an unknown session is told to be unavailable": story(
        LOGIN, Act("during", "read", 200, knows=False, body=UNAVAILABLE)
    ),
    "a logout is kept": story(LOGIN, LOGOUT, steal("during"), steal("after"), read("after")),
    "another process cannot know of a logout yet": story(
        LOGIN, LOGOUT, steal("during", at=1, user_id="7"), steal("after"), processes=3
    ),
    "another process may be behind": story(
        LOGIN, WRITE, written("2"), read("during", at=1, user_id="7", k="1"), processes=3
    ),
    "what Redis lost is lost": story(LOGIN, WRITE, read("after"), loses=True),
    "a state is good once": story(
        issue(), consume("during", 503), consume("after", 200), consume("after", 400)
    ),
    "a state of which an answer was lost may be used up": story(
        issue(), consume("during", 503), consume("after", 400)
    ),
    "a state may be lost with Redis": story(issue(), consume("after", 400), loses=True),
}

ILL = {
    "I1: shows a visitor": story(LOGIN, read("after")),
    "I1: shows a visitor; where it should be unavailable": story(
        LOGIN, Act("during", "read", 200, at=1, knows=False, body=shown()), processes=3
    ),
    "I1: had its cookie deleted": story(
        LOGIN, Act("during", "read", 200, body=UNAVAILABLE, knows=False, cookie="deleted")
    ),
    "I1: had its cookie set": story(LOGIN, Act("during", "read", 503, cookie="set"), mode="closed"),
    "I1: was answered 503": story(LOGIN, written("2", 503)),
    "I1: was answered 503; in readonly": story(LOGIN, Act("during", "read", 503), mode="readonly"),
    "I1: was answered 200; unavailable though known": story(
        LOGIN, Act("during", "read", 200, body=UNAVAILABLE)
    ),
    "I1: was answered 503; without a session": story(
        Act("during", "free", 503, had_cookie=False), mode="closed"
    ),
    "I1: had its cookie deleted; by a refused logout": story(
        LOGIN, Act("during", "logout", 503, cookie="deleted"), mode="closed"
    ),
    "I2: still shows": story(LOGIN, LOGOUT, read("after", user_id="7")),
    "I2: with an old cookie": story(LOGIN, LOGOUT, steal("after", at=1, user_id="7")),
    "I2: with an old cookie; at once": story(LOGIN, LOGOUT, steal("during", user_id="7")),
    "I2: with an old cookie; even where data was lost": story(
        LOGIN, LOGOUT, steal("after", at=1, user_id="7"), loses=True
    ),
    "I2: a state was good 2 times": story(issue(), consume("during", 200), consume("after", 200)),
    "I3: shows k=None": story(LOGIN, WRITE, read("after", user_id="7")),
    "I3: shows k='1'": story(LOGIN, WRITE, written("2"), read("after", user_id="7", k="1")),
    "I3: shows k='2'; where it was served": story(
        LOGIN, WRITE, written("2"), written("3"), read("during", user_id="7", k="2")
    ),
    "I3: shows k='9'; which nobody wrote": story(
        LOGIN, read("during", at=1, user_id="7", k="9"), processes=3
    ),
    "I3: knew nothing of an unused state": story(issue(), consume("during", 400)),
    "I4: took 9.0 s": story(LOGIN, written("2", seconds=9.0)),
    "I4: was answered 500": story(LOGIN, written("2", 500)),
    "I4: was answered 0": story(LOGIN, written("2", 0)),
    "I4: was refused": story(LOGIN, written("2", 503, "after")),
}


def is_told(invariant: str, name: str, wrong: list[str]) -> bool:
    """Whether the words of *name*, but what follows a semicolon, are among what is wrong."""
    words, _, _ = name.partition(";")
    return any(text.startswith(invariant) and words in text for text in wrong)


@pytest.mark.parametrize("name", WELL)
def test_a_history_as_it_should_be_is_not_complained_of(name: str) -> None:
    assert judge(WELL[name]) == []


def test_a_login_as_another_that_was_refused_in_traffic_may_have_ended_the_session() -> None:
    refused = Act("during", "login", 503, argument=("user_id", "8"))
    anew = Act("after", "write", 200, cookie="set", argument=("x", "1"))
    began_anew = [LOGIN, WRITE, refused, anew, read("after", x="1")]
    for acts in ([LOGIN, refused, read("after")], began_anew):
        assert judge(Story("closed", 1, False, acts=acts))
        assert judge(Story("closed", 1, False, in_traffic=True, acts=acts)) == []
    acts = [LOGIN, Act("during", "rotate", 503), read("after")]
    assert is_told("I1", "shows a visitor", judge(Story("closed", 1, False, False, True, acts)))


def test_what_processes_have_seen_they_give_back() -> None:
    acts = [LOGIN, WRITE, read("after")]
    assert is_told("I1", "shows a visitor", judge(Story("local", 1, True, True, acts=acts)))
    older = [LOGIN, WRITE, written("2"), read("after", user_id="7", k="1")]
    assert is_told("I3", "shows k='1'", judge(Story("local", 1, True, True, acts=older)))
    assert judge(Story("local", 3, True, True, acts=older)) == []


@pytest.mark.parametrize("name", ILL)
def test_what_is_wrong_with_a_session_is_found(name: str) -> None:
    wrong = judge(ILL[name])
    assert is_told(name[:2], name[4:], wrong), wrong


# --- events ---------------------------------------------------------------------------------------

OPENED, GAP, RESET, END = (Frame(kind) for kind in ("opened", "gap", "reset", "end"))


def events(*numbers: int, by: str = "a") -> list[Frame]:
    return [Frame("event", by, n) for n in numbers]


def reading(*frames: Frame, stored: tuple[int, ...] = (1, 2, 3, 4), loses: bool = False) -> Story:
    """A run of which 1 and 2 were published before the fault, 3 and 4 while it lasted."""
    acts = [
        Act("before", "emit", 200, argument=("a", [1, 2])),
        Act("during", "emit", 200, argument=("a", [3, 4])),
    ]
    readers, kept = {"one": list(frames)}, {"a": list(stored)}
    return Story("local", 1, loses, acts=acts, readers=readers, stored=kept)


READ_WELL = {
    "all of it": reading(OPENED, *events(1, 2, 3, 4), END),
    "over several connections": reading(OPENED, *events(1, 2), OPENED, *events(3, 4), END),
    "with a gap that is told": reading(OPENED, *events(1), GAP, *events(4), END),
    "with a gap at the end": reading(OPENED, *events(1, 2), GAP, END),
    "anew after a reset": reading(OPENED, *events(1, 2), RESET, *events(1, 2, 3, 4), END),
    "another life": reading(
        OPENED, *events(1, 2), RESET, *events(3, 4), END, stored=(3, 4), loses=True
    ),
    "what was lost before it came": reading(OPENED, *events(3, 4), END, stored=(3, 4), loses=True),
    "turned away, its session lost": reading(
        OPENED, *events(1, 2), Frame("refused", status=401), stored=(3, 4), loses=True
    ),
    "two publishers at once": reading(
        OPENED, *events(1, 2), *events(1, by="b"), *events(3), *events(2, by="b"), *events(4), END
    ),
}
READ_ILL = {
    "misses a's events [2]": reading(OPENED, *events(1, 3, 4), END),
    "misses a's events [4]": reading(OPENED, *events(1, 2, 3), END),
    "misses a's events [2]; before a gap": reading(OPENED, *events(1, 3), GAP, *events(4), END),
    "had a's event 2 after 2": reading(OPENED, *events(1, 2, 2, 3, 4), END),
    "had a's event 2 after 3": reading(OPENED, *events(1, 3, 2, 4), END),
    "was never told the end": reading(OPENED, *events(1, 2, 3, 4)),
    "was turned away": reading(OPENED, *events(1, 2), Frame("refused", status=401)),
    "was turned away, 404; at once": reading(Frame("refused", status=404)),
    "was told nothing": reading(),
    "was not told that they are gone": reading(
        OPENED, *events(1, 2, 3, 4), END, stored=(3, 4), loses=True
    ),
    "Redis lacks a's events [4]": reading(OPENED, *events(1, 2, 3, 4), END, stored=(1, 2, 3)),
    "Redis lacks a's events [3]; of the outage": reading(
        OPENED, *events(1, 2, 3, 4), END, stored=(1, 2, 4), loses=True
    ),
    "Redis has a's events [1, 2, 3, 3, 4]": reading(
        OPENED, *events(1, 2, 3, 4), END, stored=(1, 2, 3, 3, 4)
    ),
}


@pytest.mark.parametrize("name", READ_WELL)
def test_a_reader_who_had_everything_is_not_complained_of(name: str) -> None:
    assert judge(READ_WELL[name]) == []


@pytest.mark.parametrize("name", READ_ILL)
def test_what_a_reader_missed_is_found(name: str) -> None:
    wrong = judge(READ_ILL[name])
    assert is_told("I3", name, wrong), wrong


# --- what is left behind, and what was lost -------------------------------------------------------

DOWN, UP = "Redis is unavailable (refused): nothing", "Redis is back after 2.1 s"

LEFT = {
    "I5: told unavailable, unavailable": Process((DOWN, DOWN, UP)),
    "I5: traceback": Process(("Traceback (most recent call last):",)),
    "I6: tasks": Process(tasks=(9, 99)),
    "I6: threads": Process(threads=(4, 40)),
    "I6: connections": Process(connections=(5, 50)),
    "I7": Process(megabytes=(60.0, 200.0)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_a_process_leaves_behind_is_found(name: str) -> None:
    (wrong,) = quiet_and_clean(0, LEFT[name])
    assert wrong.startswith(name[:2])


def test_a_clean_process_is_not_complained_of() -> None:
    about = "HOLDFAST_SESSION_ON_OUTAGE=local … until Redis is back (docs/sessions/outages.md)"
    clean = Process((DOWN, UP, about, DOWN, UP), (9, 10), (4, 4), (6, 5), (60.0, 64.0))
    assert quiet_and_clean(0, clean) == []


def test_what_redis_lost_is_told_of_the_faults_that_lose() -> None:
    acts = [LOGIN, WRITE, read("after")]
    assert told_loss(story(*acts, loses=True)) == ["session"]
    assert told_loss(story(LOGIN, WRITE, read("after", user_id="7"), loses=True)) == ["last writes"]
    assert told_loss(story(issue(), consume("after", 400), loses=True)) == ["state"]
    assert told_loss(reading(OPENED, *events(1), RESET, END, loses=True)) == ["events, told"]
    assert told_loss(story(*acts)) == []
