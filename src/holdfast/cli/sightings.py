"""What visitors saw of an outage, and what is to be said of it.

Values in, words out: nothing here asks anybody anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Kind = Literal["visit", "logout", "old cookie", "last visit"]
Seconds = float


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that a visitor got.

    Attributes:
        at: when it was asked for, in seconds from the start.
        visitor: who asked.
        kind: what for.
        status: 0 where none came.
        seconds: until it came.
        user: whom the page greeted; ``None`` for nobody.
        available: whether the page could see the session.
    """

    at: Seconds
    visitor: str
    kind: Kind
    status: int
    seconds: Seconds
    user: str | None = None
    available: bool = True

    @property
    def failed(self) -> bool:
        """Whether it is neither an answer nor a clear "not now"."""
        return self.status == 0 or (self.status >= 400 and self.status != 503)


@dataclass(slots=True)
class Sightings:
    """All that was seen.

    Attributes:
        words: what was done to Redis.
        begun, ended: when it was, and when it was undone.
        back: when the process said that Redis is back; ``None`` if it never did.
        answers: of visitors.
        numbers: of the events that a reader had, each with the time.
        told: losses that the reader was told of: ``gap`` or ``reset``.
        states: what ``/readyz`` said of Redis, and when.
    """

    words: str = ""
    begun: Seconds = 0.0
    ended: Seconds = 0.0
    back: Seconds | None = None
    answers: list[Answer] = field(default_factory=list)
    numbers: list[tuple[Seconds, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    states: list[tuple[Seconds, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise, and whether it was kept."""

    kept: bool
    text: str


def table(seen: Sightings) -> Iterator[str]:
    """Yield a line for each second: what happened, and what visitors got."""
    yield "second  Redis is  holdfast says  answers  served  refused  failed   slowest  events"
    last = max([answer.at for answer in seen.answers] + [at for at, _ in seen.numbers], default=0.0)
    for second in range(int(last) + 1):
        answers = [answer for answer in seen.answers if int(answer.at) == second]
        refused = sum(answer.status == 503 for answer in answers)
        failed = sum(answer.failed for answer in answers)
        slowest = max((answer.seconds for answer in answers), default=0.0)
        events = sum(int(at) == second for at, _ in seen.numbers)
        yield (
            f"{second:6}  {_redis(seen, second):8}  {_said(seen, second):13}  {len(answers):7}"
            f"  {len(answers) - refused - failed:6}  {refused:7}  {failed:6}"
            f"  {1000 * slowest:5.0f} ms  {events:6}"
        )


def _redis(seen: Sightings, second: int) -> str:
    return "away" if second + 1 > seen.begun and second < seen.ended else "well"


def _said(seen: Sightings, second: int) -> str:
    said = [state for at, state in seen.states if int(at) == second]
    return said[-1] if said else ""


def verdicts(seen: Sightings) -> Iterator[Verdict]:
    """Yield what was promised, and whether it was kept."""
    yield _answered(seen)
    yield _stayed_logged_in(seen)
    yield from _stayed_logged_out(seen)
    yield _events(seen)
    if seen.back is None:
        yield Verdict(False, "Redis was well again, and was not noticed.")
    else:
        yield Verdict(True, f"Redis was back for visitors {seen.back - seen.ended:.1f} s after.")


def _answered(seen: Sightings) -> Verdict:
    failed = sum(answer.failed for answer in seen.answers)
    refused = sum(answer.status == 503 for answer in seen.answers)
    slowest = max((answer.seconds for answer in seen.answers), default=0.0)
    told = f"The slowest of {len(seen.answers)} answers took {1000 * slowest:.0f} ms"
    if failed:
        return Verdict(False, f"{told}; {failed} requests failed.")
    return Verdict(True, f"{told}; {refused} were a clear 503, to be tried again, and none failed.")


def _stayed_logged_in(seen: Sightings) -> Verdict:
    out = sorted(
        {
            answer.visitor
            for answer in seen.answers
            if answer.status == 200
            and (answer.kind == "last visit" or (answer.kind == "visit" and answer.available))
            and answer.user != answer.visitor
        }
    )
    if out:
        return Verdict(False, f"Logged out without having asked for it: {', '.join(out)}.")
    everybody = {answer.visitor for answer in seen.answers if answer.kind == "last visit"}
    return Verdict(True, f"All {len(everybody)} visitors are still logged in.")


def _stayed_logged_out(seen: Sightings) -> Iterator[Verdict]:
    leaving = [answer for answer in seen.answers if answer.kind == "logout"]
    done = [answer for answer in leaving if answer.status < 300 and answer.status]
    tries = [answer for answer in seen.answers if answer.kind == "old cookie"]
    if not done:
        if leaving:
            yield Verdict(True, "Who wanted to log out meanwhile was told to try again later.")
        return
    if any(answer.user for answer in tries):
        yield Verdict(False, "Who logged out meanwhile is logged in again with the old cookie.")
    else:
        yield Verdict(True, "Who logged out meanwhile stays logged out, the old cookie too.")


def _events(seen: Sightings) -> Verdict:
    numbers = [number for _, number in seen.numbers]
    if not numbers:
        return Verdict(False, "The reader of the run got no event.")
    whole = numbers[0] == 1 and all(b == a + 1 for a, b in pairwise(numbers))
    if whole:
        meanwhile = sum(seen.begun < at < seen.ended for at, _ in seen.numbers)
        told = f"{len(numbers)} events, {meanwhile} of them meanwhile: each came once and in order."
        return Verdict(True, told)
    if seen.told:
        return Verdict(
            True, f"Events are missing, and the reader was told: {', '.join(seen.told)}."
        )
    return Verdict(False, f"Events are missing, doubled or out of order: {_breaks(numbers)}.")


def _breaks(numbers: Sequence[int]) -> str:
    found = [f"{b} after {a}" for a, b in pairwise([0, *numbers]) if b != a + 1]
    return ", ".join(found[:5])
