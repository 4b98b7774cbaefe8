"""Random faults over sessions and streams at once, and a checker that knows what was acknowledged.

It reads the histories of clients and Redis, nothing of holdfast's inside: a violation is what a
visitor could have seen. It says how many faults really bit, since those that nobody notices prove
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tests.chaos.calm import Calm
from tests.chaos.lives import Run, Visitor
from tests.matrix.faults import FAULTS, Fault
from tests.matrix.invariants import (
    answered,
    cookie_kept,
    delivered,
    nothing_lost,
    nothing_resurrected,
    quiet_and_clean,
)
from tests.matrix.site import Site, joined
from tests.matrix.sweep import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.chaos.lives import Life
    from tests.matrix.faults import Backend
    from tests.matrix.history import Mode, Story

SITES: tuple[tuple[Mode, int], ...] = (("local", 1), ("readonly", 3), ("closed", 2))


def _cut_and_heal(backend: Backend) -> None:
    backend.proxy.cut()
    backend.proxy.heal()


ANY: dict[str, Fault] = {
    **FAULTS,
    "lost-replies": Fault(
        "commands are carried out and their answers lost",
        lambda backend: backend.proxy.blackhole("replies"),
        _cut_and_heal,
        frozenset({"timeout", "reset"}),
    ),
}
"""What may happen: the faults of the matrix, and one that shows in the middle of traffic alone."""


@dataclass(frozen=True)
class Pace:
    """How much happens, and how fast.

    Attributes:
        life: seconds that a visitor or a run acts, at least and at most.
        well: those between two faults; ``fault``: those that one lasts.
        faults: the names of what may happen.
        visitors, runs: how many there are at each site at a time.
    """

    life: tuple[float, float] = (2.0, 14.0)
    well: tuple[float, float] = (0.3, 3.0)
    fault: tuple[float, float] = (0.1, 4.0)
    faults: tuple[str, ...] = tuple(ANY)
    visitors: int = 12
    runs: int = 6


LEISURE = Pace()
HASTE = Pace(life=(1.0, 5.0), well=(0.2, 0.8), fault=(0.1, 1.0))


_CHECKS: tuple[Callable[[Story], list[str]], ...] = (
    answered,
    lambda story: cookie_kept(_after_a_loss(story)),
    lambda story: nothing_lost(_after_a_loss(story)),
    nothing_resurrected,
    delivered,
)
_ON_ITS_WAY = 0.3
"""Seconds within which an answer arrives that was given before the fault."""


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        wrong: the violations, in words.
        stories: of each life in which there were some, all that was seen.
        faults: by name, how many there were.
        bit: how many of them a process noticed, by what it says at ``/readyz``.
        requests, events: what was asked and what was delivered to readers.
        acknowledged: writes, logins, logouts, renewals and publishings that were answered well.
        lives: stories that were checked.
        seconds: that it took.
    """

    wrong: list[str] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    bit: int = 0
    requests: int = 0
    refused: int = 0
    events: int = 0
    acknowledged: int = 0
    lives: int = 0
    seconds: float = 0.0

    def add(self, story: Story) -> None:
        """Check a story and count it."""
        self.lives += 1
        self.requests += len(story.acts)
        self.refused += sum(act.status == 503 for act in story.acts)
        self.acknowledged += sum(act.done and act.what not in _READS for act in story.acts)
        frames = [frame for each in story.readers.values() for frame in each]
        self.events += sum(frame.kind == "event" for frame in frames)
        where = f"{story.mode}, {story.processes}"
        wrong = [f"{where}: {text}" for check in _CHECKS for text in check(story)]
        self.wrong += wrong
        if wrong:
            self.stories.append("\n".join([*wrong, *_told(story)]))

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        return (
            f"{len(self.wrong)} violations in {self.seconds:.0f} s:"
            f" {self.faults.total()} faults, of which {self.bit} bit ({faults});"
            f" {self.requests:,} requests, {self.refused:,} of them refused,"
            f" {self.acknowledged:,} writes acknowledged, {self.events:,} events delivered,"
            f" {self.lives:,} lives checked"
        )


_READS = {"read", "steal", "free"}


def _told(story: Story) -> list[str]:
    acts = [
        f"  {act.place}: {act.status} after {act.seconds:.2f} s, {act.argument} {act.body or ''}"
        for act in story.acts
    ]
    for name, frames in story.readers.items():
        acts.append(f"  reader {name}:")
        acts += [f"    {each.kind} {each.by} {each.n or ''} {each.id}" for each in frames]
    return [*acts, f"  stored: {story.stored}"]


def _after_a_loss(story: Story) -> Story:
    """What Redis may have lost may have been gone at any of its acts."""
    if not story.loses:
        return story
    return replace(story, acts=[replace(act, phase="after") for act in story.acts])


async def soak(
    seconds: float,
    folder: Path,
    *,
    seed: int = 1,
    sites: Sequence[tuple[Mode, int]] = SITES,
    env: Mapping[str, str] | None = None,
    pace: Pace = LEISURE,
) -> Outcome:
    """Let anything happen at each of *sites* for so long, and check every story.

    Args:
        folder: an empty one, for logs.
        seed: what is done, and when, follows from it; what comes of it does not.
        env: more variables for the processes.
        pace: how fast things happen.
    """
    outcome, begun = Outcome(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, (mode, processes) in enumerate(sites):
            chance = random.Random(f"{seed}/{number}")
            site = Site(mode, processes, folder, env)
            group.create_task(_at_site(site, seconds, chance, outcome, pace))
    outcome.seconds = time.monotonic() - begun
    return outcome


async def _at_site(
    site: Site,
    seconds: float,
    chance: random.Random,
    outcome: Outcome,
    pace: Pace,
) -> None:
    async with site:
        await warm_up(site)
        await site.back()
        first, _ = await site.look(), site.printed()
        chaos = _Chaos(site, chance, outcome, time.monotonic() + seconds, pace)
        await chaos.run()
        await site.back()
        left = [*site.silent, *await _clean(site, first)]
        outcome.wrong += [f"{site.mode}, {len(site.urls)}: {text}" for text in left]


async def _clean(site: Site, first: Any) -> list[str]:
    """Return what is left behind, once what was let go has had the time to go."""
    logs, deadline = site.printed(), time.monotonic() + 10
    while True:
        looks = joined(first, await site.look(), logs)
        left = [text for n, each in enumerate(looks) for text in quiet_and_clean(n, each)]
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.1)


class _Chaos:
    """One site's faults, visitors and runs, until it is time."""

    def __init__(
        self,
        site: Site,
        chance: random.Random,
        outcome: Outcome,
        until: float,
        pace: Pace,
    ) -> None:
        self._pace = pace
        self._site = site
        self._chance = chance
        self._outcome = outcome
        self._until = until
        self._calm = Calm()
        self._living: set[Life] = set()

    async def run(self) -> None:
        lives = [self._live(Visitor) for _ in range(self._pace.visitors)]
        lives += [self._live(Run) for _ in range(self._pace.runs)]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._break())
            for each in lives:
                group.create_task(each)

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self._until

    async def _live(self, kind: type[Life]) -> None:
        while self._goes_on:
            seconds = min(self._chance.uniform(*self._pace.life), self._until - time.monotonic())
            life = kind(self._site, self._calm, self._chance, seconds)
            self._living.add(life)
            try:
                self._outcome.add(await life.run())
            finally:
                self._living.discard(life)

    async def _break(self) -> None:
        while self._goes_on:
            await asyncio.sleep(self._chance.uniform(*self._pace.well))
            async with self._calm.broken():
                await self._one_fault(self._chance.choice(self._pace.faults))

    async def _one_fault(self, name: str) -> None:
        fault, backend = ANY[name], self._site.backend
        await _in_thread(fault.prepare, backend)
        seconds = self._chance.uniform(*self._pace.fault)
        await _in_thread(fault.before_last, backend)
        await asyncio.sleep(0.1)
        await _in_thread(fault.begin, backend)
        if fault.loses:
            await asyncio.sleep(_ON_ITS_WAY)
            self._mark_losses()
        watching = asyncio.create_task(self._site.noticed(seconds + 1.0))
        await asyncio.sleep(seconds)
        await _in_thread(fault.end, backend)
        self._outcome.faults[name] += 1
        self._outcome.bit += bool(await watching)
        await self._site.back()

    def _mark_losses(self) -> None:
        """Have whoever lives now know that Redis may have lost what it had acknowledged."""
        for life in self._living:
            story = life.story
            story.loses = True
            story.acts[:] = [
                replace(act, phase="before") if act.what == "emit" and act.done else act
                for act in story.acts
            ]


async def _in_thread(do: Callable[[Backend], None], backend: Backend) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.to_thread(do, backend)
