"""What a reader is answered before the first event, as a table."""

from __future__ import annotations

import pytest
from tests.streams.patchy import PatchyStore

from holdfast.streams.access import FORBIDDEN, UNKNOWN, Verdict
from holdfast.streams.cursor import TAIL, Cursor, Position
from holdfast.streams.doors.opening import Decision, Opening, decide, judge
from holdfast.streams.event import EventId
from holdfast.streams.store import RunInfo

END = EventId(9, 0)
START, BEFORE, AT, PAST = (Cursor(EventId(ms, 0)) for ms in (0, 5, 9, 11))
OPEN = RunInfo("open", "l", END, 3, 3)
ENDED = RunInfo("ended", "l", END, 3, 3, END, ("p", 3))
EXPIRED = RunInfo("expired", "l", END, 3, 0, END, ("p", 3))
NEVER_ENDED = RunInfo("expired", "l", END, 3, 0)
ABSENT = RunInfo(last=END, life="l")
ENDED_HERE = RunInfo("ended", last=EventId(4, 0), end_origin=("p", 3))


@pytest.mark.parametrize(
    ("info", "position", "opening"),
    [
        *((None, position, Opening.UNDECIDED) for position in (START, AT, TAIL)),
        *((ABSENT, position, Opening.ABSENT) for position in (START, AT, PAST, TAIL)),
        *((OPEN, position, Opening.SERVE) for position in (START, BEFORE, AT, PAST, TAIL)),
        *((ENDED, position, Opening.SERVE) for position in (START, BEFORE)),
        *((ENDED, position, Opening.NOTHING_FOLLOWS) for position in (AT, PAST, TAIL)),
        *((EXPIRED, position, Opening.EXPIRED) for position in (START, BEFORE)),
        *((EXPIRED, position, Opening.NOTHING_FOLLOWS) for position in (AT, PAST, TAIL)),
        *((NEVER_ENDED, position, Opening.EXPIRED) for position in (START, AT, TAIL)),
        (ENDED, Cursor(EventId(5, 0), {"p": 3}), Opening.NOTHING_FOLLOWS),
        (ENDED, Cursor(EventId(5, 0), {"p": 2}), Opening.SERVE),
        (ENDED, Cursor(EventId(5, 0), {"q": 3}), Opening.SERVE),
        (ENDED_HERE, START, Opening.SERVE),
        (ENDED_HERE, PAST, Opening.SERVE),
        (ENDED_HERE, Cursor(EventId(4, 0), {"p": 3}), Opening.NOTHING_FOLLOWS),
        (ENDED_HERE, TAIL, Opening.NOTHING_FOLLOWS),
    ],
)
def test_answer_follows_run_and_position(
    info: RunInfo | None, position: Position, opening: Opening
) -> None:
    assert decide(info, position) is opening


@pytest.mark.parametrize(
    ("verdict", "code"), [(UNKNOWN, "UNAUTHORIZED"), (FORBIDDEN, "FORBIDDEN")], ids=["401", "403"]
)
async def test_a_late_refusal_says_what_an_early_one_would(verdict: Verdict, code: str) -> None:
    async def permit() -> Verdict:
        return verdict

    decision = await judge(PatchyStore(), "r", START, permit)
    assert decision == Decision(Opening.DENIED, code=code)
