"""One outage, and all that its visitors make of it: the cells of one fault at one site.

They share the outage and nothing else: each has a browser, a session and a run of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from tests.matrix.actions import ACTIONS, ROUND_SECONDS, ROUNDS, Action
from tests.matrix.faults import FAULTS
from tests.matrix.invariants import (
    judge,
    quiet_and_clean,
    tells_of_outage,
    told_loss,
    was_disturbed,
)
from tests.matrix.site import joined
from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.matrix.history import Process, Story
    from tests.matrix.site import Site

_NOTICE_SECONDS = 3.0
_SETTLE_SECONDS = 10.0
ATTEMPTS = 3


@dataclass(frozen=True, order=True)
class Cell:
    """One place of the matrix."""

    fault: str
    action: str
    mode: str
    processes: int

    def __str__(self) -> str:
        return f"{self.fault}/{self.action}/{self.mode}/{self.processes}"


@dataclass
class Result:
    """What came of a cell.

    Attributes:
        done: what was done to Redis.
        noticed: the reasons that the processes gave at ``/readyz``.
        statuses: of the answers while it lasted, by what was asked.
        slowest: seconds of the slowest answer while it lasted.
        lost: what Redis had acknowledged, and was seen to have lost, in words.
        wrong: the violations.
        commit: of the code.
    """

    cell: Cell
    done: str
    noticed: list[str]
    statuses: dict[str, list[int]]
    slowest: float
    lost: str
    wrong: list[str]
    commit: str
    stories: list[Story] = field(default_factory=list, repr=False)

    def record(self) -> dict[str, Any]:
        """Return what is kept of it, as JSON."""
        return {
            "fault": self.cell.fault,
            "action": self.cell.action,
            "mode": self.cell.mode,
            "processes": self.cell.processes,
            "done": self.done,
            "noticed": self.noticed,
            "statuses": self.statuses,
            "slowest": round(self.slowest, 3),
            "lost": self.lost,
            "wrong": self.wrong,
            "commit": self.commit,
        }


async def sweep(site: Site, fault_name: str, actions: Sequence[str]) -> list[Result]:
    """Do *actions* at *site* through one outage; return what came of each.

    On a busy machine a healthy Redis may be late before the fault or after it, and then the outage
    that is judged is another one: it is done again, with other visitors, twice at most.
    """
    results, disturbed = await _one_outage(site, fault_name, actions)
    for _ in range(1, ATTEMPTS):
        if not disturbed:
            break
        results, disturbed = await _one_outage(site, fault_name, actions)
    return results


async def _one_outage(
    site: Site, fault_name: str, actions: Sequence[str]
) -> tuple[list[Result], bool]:
    fault, backend = FAULTS[fault_name], site.backend
    doing = {name: ACTIONS[name](site, loses=fault.loses) for name in actions}
    for action in doing.values():
        action.story.gives_back = fault.empties and site.mode != "closed"
    await asyncio.to_thread(fault.prepare, backend)
    await site.back()
    first_look, since = await site.look(), await site.since()
    site.printed()
    try:
        await _all(action.before() for action in doing.values())
        await asyncio.to_thread(fault.before_last, backend)
        await _all(action.last() for action in doing.values())
        before, blinked = site.printed(), await site.since() != since
        await asyncio.to_thread(fault.begin, backend)
        noticed = await _through_it(site, doing.values())
        await asyncio.to_thread(fault.end, backend)
        await site.back()
        meanwhile = site.printed()
        _enter("after", doing.values())
        await _all(action.after() for action in doing.values())
    finally:
        await _all(action.aclose() for action in doing.values())
    second_look = await _settled(site, first_look)
    after = site.printed()
    logs = [sum(parts, ()) for parts in zip(before, meanwhile, after, strict=True)]
    processes = joined(first_look, second_look, logs)
    left = [text for n, each in enumerate(processes) for text in quiet_and_clean(n, each)]
    left += site.silent
    site.silent.clear()
    stories = [story for action in doing.values() for story in action.stories]
    disturbed = blinked or any(map(was_disturbed, stories))
    disturbed = disturbed or any(map(tells_of_outage, before + after))
    results = [
        _result(
            Cell(fault_name, name, site.mode, len(site.urls)), fault.words, noticed, action, left
        )
        for name, action in doing.items()
    ]
    return results, disturbed


async def warm_up(site: Site) -> None:
    """Use everything once, where nothing fails: what an app starts at first use is no leak."""
    actions = [make(site, loses=False) for make in ACTIONS.values()]
    await _all(action.before() for action in actions)
    await _all(action.after() for action in actions)
    await _all(action.aclose() for action in actions)


async def _through_it(site: Site, doing: Iterable[Action]) -> list[str]:
    actions = list(doing)
    _enter("during", actions)
    watching = asyncio.create_task(site.noticed(_NOTICE_SECONDS))
    await _all(action.during(0) for action in actions)
    reasons = await watching
    for number in range(1, ROUNDS):
        await _all(action.during(number) for action in actions)
        await asyncio.sleep(ROUND_SECONDS)
    return sorted(reasons)


async def _settled(site: Site, first: list[Process]) -> list[Process]:
    """Look again, once connections that were let go have gone."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        look = await site.look()
        pairs = joined(first, look, [()] * len(look))
        clean = not any(quiet_and_clean(0, each) for each in pairs)
        if clean or time.monotonic() > deadline:
            return look
        await asyncio.sleep(0.05)


def _enter(phase: Any, actions: Iterable[Action]) -> None:
    for action in actions:
        action.browser.phase = phase


async def _all(parts: Iterable[Any]) -> None:
    await asyncio.gather(*parts)


def _result(
    cell: Cell, done: str, noticed: list[str], action: Action, left: Sequence[str]
) -> Result:
    acts = [act for story in action.stories for act in story.acts if act.phase == "during"]
    statuses: dict[str, set[int]] = {}
    for act in acts:
        statuses.setdefault(act.what, set()).add(act.status)
    for story in action.stories:
        for name, frames in story.readers.items():
            opened = {frame.status for frame in frames if frame.kind in {"opened", "refused"}}
            statuses[f"reader, {name}"] = opened
    return Result(
        cell,
        done,
        noticed,
        {what: sorted(found) for what, found in statuses.items()},
        max((act.seconds for act in acts), default=0.0),
        ", ".join(sorted({text for story in action.stories for text in told_loss(story)})),
        [*(text for story in action.stories for text in judge(story)), *left],
        commit(),
        action.stories,
    )


@cache
def commit() -> str:
    """Return the commit of the code, and whether it was changed since."""
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
