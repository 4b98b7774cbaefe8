"""The policy's truth table: each row is a rule of the contract."""

from __future__ import annotations

import itertools

import pytest

from holdfast.sessions.lifecycle import (
    NOTHING,
    Command,
    Decision,
    Deeds,
    Header,
    Notice,
    Standing,
    Terms,
    decide,
    judge,
    touch_due,
    touch_interval,
)
from holdfast.sessions.store import Outcome, Record
from holdfast.settings import Settings

NOW = 1_000_000.0
TERMS = Terms(lifetime=1000)
FOUND, NEW, OVER, AWAY = Standing.FOUND, Standing.NEW, Standing.OVER, Standing.UNAVAILABLE
DELETE, CREATE, SAVE = Command.DELETE, Command.CREATE, Command.SAVE
REGENERATE, RENEW, TOUCH = Command.REGENERATE, Command.RENEW, Command.TOUCH
KEEP, SET, REMOVE = Header.KEEP, Header.SET, Header.REMOVE
TOO_LATE = Decision(notice=Notice.TOO_LATE)
USER_TOO_LATE = Decision(notice=Notice.USER_TOO_LATE)
DROPPED = Decision(notice=Notice.DROPPED)


def record(**times: float) -> Record:
    defaults = {"created_at": NOW - 100, "seen_at": NOW - 100, "secret_since": NOW - 100}
    return Record({}, expires_at=NOW + 900, **(defaults | times))  # type: ignore[arg-type]


def decided(
    standing: Standing, terms: Terms = TERMS, old_key: bool = False, **deeds: bool
) -> Decision:
    found = record() if standing is FOUND else None
    return decide(standing, found, Deeds(**deeds), NOW, terms, old_key=old_key)


TABLE: list[tuple[str, Standing, str, Decision]] = [
    ("a visitor who writes nothing costs nothing", NEW, "", NOTHING),
    ("the first write creates", NEW, "changed has_data", Decision((CREATE,), SET)),
    ("a new id is not regenerated", NEW, "has_data regenerate", Decision((CREATE,), SET)),
    ("a session written and emptied again is none", NEW, "changed", NOTHING),
    ("too late for a new one", NEW, "has_data started", TOO_LATE),
    ("a session that is only read costs nothing", FOUND, "has_data", NOTHING),
    ("a change is saved without a cookie", FOUND, "changed has_data", Decision((SAVE,))),
    ("an emptied one too: the store destroys it", FOUND, "changed", Decision((SAVE,))),
    ("a late change is saved", FOUND, "changed started", Decision((SAVE,))),
    ("regeneration", FOUND, "regenerate", Decision((REGENERATE,), SET)),
    ("a new user, a new id", FOUND, "changed user_changed", Decision((REGENERATE,), SET)),
    ("a late new user is refused", FOUND, "changed user_changed started", USER_TOO_LATE),
    ("logout", NEW, "invalidated", Decision((DELETE,), REMOVE)),
    ("logout, then anew", NEW, "invalidated has_data", Decision((DELETE, CREATE), SET)),
    ("a late logout destroys", NEW, "invalidated started", Decision((DELETE,), REMOVE)),
    (
        "a late session after a logout is refused, and the logout stands",
        NEW,
        "invalidated has_data started",
        Decision((DELETE,), REMOVE, Notice.TOO_LATE),
    ),
    ("superseded: reads as absent", OVER, "", NOTHING),
    ("superseded: creates nothing, and tells", OVER, "changed has_data", DROPPED),
    ("superseded: nothing to regenerate", OVER, "regenerate", NOTHING),
    ("unavailable: the cookie stays", AWAY, "", NOTHING),
    ("unavailable: nothing comes in its place", AWAY, "changed has_data", NOTHING),
    ("who raised saves nothing", FOUND, "failed changed has_data", NOTHING),
    ("… and creates nothing", NEW, "failed changed has_data", NOTHING),
    ("… but the logout is obeyed", NEW, "failed invalidated", Decision((DELETE,))),
    ("… and the regeneration: both gone", FOUND, "failed regenerate", Decision((DELETE,))),
    ("… of a new session there is nothing", NEW, "failed regenerate", NOTHING),
]


@pytest.mark.parametrize(
    ("standing", "deeds", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_table(standing: Standing, deeds: str, expected: Decision) -> None:
    assert decided(standing, TERMS, **dict.fromkeys(deeds.split(), True)) == expected


ALL_DEEDS = [Deeds(*flags) for flags in itertools.product([False, True], repeat=len(Deeds._fields))]


@pytest.mark.parametrize("old_key", [False, True])
@pytest.mark.parametrize("standing", list(Standing))
def test_what_holds_for_every_row(standing: Standing, old_key: bool) -> None:
    terms = Terms(lifetime=1000, idle_timeout=10, rotate_after=10)
    for deeds in ALL_DEEDS:
        found = record() if standing is FOUND else None
        decision = decide(standing, found, deeds, NOW, terms, old_key=old_key)
        told = (standing, deeds)
        if standing in (AWAY, OVER) and not deeds.invalidated:
            assert decision.header is KEEP, told
            assert not decision.commands, told
        if deeds.failed:
            assert decision.header is KEEP, told
            assert set(decision.commands) <= {DELETE}, told
        if deeds.started:
            assert CREATE not in decision.commands, told
            assert REGENERATE not in decision.commands, told
            assert RENEW not in decision.commands, told
        if CREATE in decision.commands:
            assert decision.header is SET, told
            assert deeds.has_data, told
        if DELETE in decision.commands:
            assert decision.commands[0] is DELETE, told
        assert len(decision.commands) <= 2, told


def test_a_cookie_of_an_old_key_is_signed_anew_once_it_leads_somewhere() -> None:
    assert decided(FOUND, old_key=True) == Decision((TOUCH,), SET)
    assert decided(FOUND, old_key=True, changed=True) == Decision((SAVE,), SET)
    assert decided(FOUND, old_key=True, started=True) == NOTHING
    assert decided(NEW, old_key=True) == NOTHING
    assert decided(AWAY, old_key=True) == NOTHING


@pytest.mark.parametrize(
    ("idle", "age", "due"),
    [(0, 900, False), (100, 24, False), (100, 25, True), (1000, 59, False), (1000, 60, True)],
)
def test_activity_is_written_down_at_most_once_in_an_interval(
    idle: float, age: float, due: bool
) -> None:
    terms = Terms(idle_timeout=idle)
    found = record(seen_at=NOW - age)
    assert touch_due(found, NOW, terms) is due
    expected = Decision((TOUCH,)) if due else NOTHING
    assert decide(FOUND, found, Deeds(has_data=True), NOW, terms) == expected
    assert touch_interval(terms) == min(60, idle / 4)


def test_a_change_is_activity_enough() -> None:
    terms = Terms(idle_timeout=100)
    assert decided(FOUND, terms, changed=True) == Decision((SAVE,))


def test_a_stream_that_ends_is_no_activity() -> None:
    assert decided(FOUND, Terms(idle_timeout=100), started=True) == NOTHING


def test_a_secret_that_has_grown_old_is_renewed_with_grace() -> None:
    terms = Terms(rotate_after=100)
    assert decided(FOUND, terms) == Decision((RENEW,), SET)
    assert decided(FOUND, terms, changed=True) == Decision((RENEW,), SET)
    assert decided(FOUND, Terms(rotate_after=101)) == NOTHING
    assert decided(FOUND, terms, regenerate=True) == Decision((REGENERATE,), SET)
    assert decided(FOUND, terms, started=True) == NOTHING


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("terms", [TERMS, Terms(rotate_after=1, idle_timeout=200)])
@pytest.mark.parametrize("deeds", [{}, {"regenerate": True}])
def test_after_the_start_only_a_change_or_an_end_is_left(
    standing: Standing, terms: Terms, deeds: dict[str, bool]
) -> None:
    # What commit.planned() relies on; data that no store holds is a change.
    for has_data in {False, standing is not NEW}:
        for old_key in (False, True):
            decision = decided(standing, terms, old_key, started=True, has_data=has_data, **deeds)
            assert decision == NOTHING


@pytest.mark.parametrize("change", [{"current": False}, {"degraded": "stale"}])
def test_who_may_not_know_the_newest_secret_does_not_renew_it(change: dict[str, object]) -> None:
    found = record()._replace(**change)  # type: ignore[arg-type]
    assert decide(FOUND, found, Deeds(), NOW, Terms(rotate_after=100)) == NOTHING


@pytest.mark.parametrize("change", [{"current": False}, {"degraded": "stale"}])
@pytest.mark.parametrize("changed", [False, True])
def test_who_may_not_know_the_newest_secret_is_not_given_its_own_again(
    change: dict[str, object], changed: bool
) -> None:
    found = record()._replace(**change)  # type: ignore[arg-type]
    decision = decide(FOUND, found, Deeds(changed=changed), NOW, TERMS, old_key=True)
    assert decision.header is KEEP


@pytest.mark.parametrize("lifetime", [0, -1])
def test_a_lifetime_of_nothing_sends_a_cookie_and_stores_nothing(lifetime: float) -> None:
    terms = Terms(lifetime=lifetime)
    assert decided(NEW, terms, has_data=True) == Decision(header=SET)
    # At the end of the response too there is nothing to store, and so nothing that is too late.
    assert decided(NEW, terms, has_data=True, started=True) == Decision()


@pytest.mark.parametrize(
    ("command", "outcome", "standing", "header", "rotated"),
    [
        (CREATE, Outcome.DONE, FOUND, None, False),
        (SAVE, Outcome.DONE, FOUND, None, False),
        (SAVE, Outcome.DESTROYED, NEW, REMOVE, False),
        (SAVE, Outcome.GONE, OVER, KEEP, False),
        (REGENERATE, Outcome.DONE, FOUND, None, True),
        (REGENERATE, Outcome.GONE, OVER, KEEP, False),
        (REGENERATE, Outcome.DESTROYED, NEW, REMOVE, False),
        (RENEW, Outcome.DONE, FOUND, None, True),
        (RENEW, Outcome.NOT_ROTATED, FOUND, KEEP, False),
        (TOUCH, Outcome.DONE, FOUND, None, False),
        (TOUCH, Outcome.GONE, OVER, KEEP, False),
        (DELETE, Outcome.DONE, NEW, None, False),
        (DELETE, Outcome.GONE, NEW, None, False),
    ],
)
def test_what_an_outcome_means(
    command: Command, outcome: Outcome, standing: Standing, header: Header | None, rotated: bool
) -> None:
    assert judge(command, outcome) == (standing, header, rotated)


@pytest.mark.parametrize(
    ("data", "user"),
    [
        ({}, None),
        ({"user_id": 7}, "7"),
        ({"user_id": None}, None),
        ({"_user_id": "a", "user_id": 7}, "a"),
        ({"_auth_user_id": "1", "_user_id": "a", "user_id": 7}, "1"),
        ({"uid": "x"}, None),
    ],
)
def test_the_first_user_key_present_names_the_user(
    data: dict[str, object], user: str | None
) -> None:
    assert TERMS.user_of(data) == user


def test_the_terms_are_what_the_settings_say() -> None:
    settings = Settings(
        session_user_key="uid",
        session_idle_timeout=10,
        session_rotate_after=20,
        session_max_bytes=30,
        session_fresh_keys=("admin",),
        session_on_outage="closed",
    )
    terms = Terms.of(settings, 5)
    assert terms.user_of({"uid": 3, "user_id": 4}) == "3"
    assert (terms.lifetime, terms.idle_timeout, terms.rotate_after, terms.max_bytes) == (
        5,
        10,
        20,
        30,
    )
    assert terms.fresh_keys == ("admin",)
    assert terms.closed
    assert not Terms.of(Settings(), 5).closed
