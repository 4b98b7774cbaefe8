"""What must hold whatever happens to Redis, as functions of a history: no clock, no I/O.

I1: the cookie of a live session is neither deleted nor replaced, and its session is still there.
I2: what was logged out, replaced or used up is never found again.
I3: what was acknowledged is there after recovery; an event once and in order, or a told loss.
I4: every request is answered, within its budget.
I5: one log line for each transition, and nothing else.
I6: no task, thread or connection is left behind.
I7: memory is bounded.

Each function returns what is wrong, in words that begin with the invariant's name.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.matrix.history import Act, Frame, Process, Story

BUDGET = 5.0
"""Seconds: twenty times the timeout of the matrix. It tells waiting from hanging, and no more."""

SLACK_TASKS = 5
SLACK_THREADS = 4
SLACK_CONNECTIONS = 12
SLACK_MEGABYTES = 48.0

# Whole, because other lines speak of a Redis that "is back (docs/…)".
_TRANSITION = re.compile(r"Redis is (unavailable(?= \()|back(?= after))")


def judge(story: Story) -> list[str]:
    """Return every violation of a story."""
    return [
        *answered(story),
        *in_time(story),
        *cookie_kept(story),
        *served(story),
        *nothing_lost(story),
        *nothing_resurrected(story),
        *used_once(story),
        *delivered(story),
    ]


# --- I4: answers ----------------------------------------------------------------------------------


def answered(story: Story) -> list[str]:
    """An answer comes, and says 503 where it cannot serve, never 500."""
    wrong = []
    for act in story.acts:
        if act.status in {0, 500}:
            what = f"was answered {act.status} after {act.seconds:.1f} s"
            wrong.append(f"I4: {act.place} {what}{f': {act.body}' if act.body else ''}")
        elif act.status == 503 and act.phase != "during":
            wrong.append(f"I4: {act.place} was refused")
    return wrong


def in_time(story: Story) -> list[str]:
    """No answer keeps its visitor waiting."""
    slow = [act for act in story.acts if act.seconds > BUDGET]
    return [f"I4: {act.place} took {act.seconds:.1f} s" for act in slow]


# --- I1: sessions live on -------------------------------------------------------------------------

_SETS = {"login", "rotate"}


def cookie_kept(story: Story) -> list[str]:
    """Only the app's own word, acknowledged, changes the cookie of a session."""
    model, wrong = _Model(in_traffic=story.in_traffic), []
    for act in story.acts:
        allowed = {"kept"}
        gone = _may_be_gone(story, act) or model.maybe_ended
        model.note(act)
        if act.done and act.what in _SETS:
            allowed = {"set", "kept"} if gone else {"set"}
        elif act.done and act.what == "logout":
            allowed = {"deleted", "kept"} if gone else {"deleted"}
        elif act.done and act.what == "write" and (not act.had_cookie or gone):
            allowed = {"set", "kept"}
        if act.cookie not in allowed:
            wrong.append(f"I1: {act.place}, answered {act.status}, had its cookie {act.cookie}")
    return wrong


def _may_be_gone(story: Story, act: Act) -> bool:
    return story.loses and act.phase == "after"


def served(story: Story) -> list[str]:
    """What a mode promises to serve from what a process knows, it serves."""
    return [
        f"I1: {act.place} was answered {act.status}, {act.body}, in {story.mode}"
        for act in story.acts
        if act.phase == "during" and _must_serve(story.mode, act) and not _is_served(act)
    ]


def _must_serve(mode: str, act: Act) -> bool:
    if act.what == "free" or (act.what in {"read", "write", "login"} and not act.had_cookie):
        return act.what == "free" or mode == "local"
    if not act.knows:
        return False
    promised = {
        "closed": set[str](),
        "readonly": {"read"},
        "local": {"read", "write", "login", "logout", "rotate"},
    }
    return act.what in promised[mode]


def _is_served(act: Act) -> bool:
    return act.done and not (act.what == "read" and act.body["available"] is False)


# --- I3: what was acknowledged --------------------------------------------------------------------


class _Model:
    """What a session may hold by what was acknowledged, and by what only may have happened."""

    def __init__(self, *, in_traffic: bool = False) -> None:
        self._in_traffic = in_traffic
        self.possible: dict[str, set[Any]] = {}
        self.ever: dict[str, set[Any]] = {}
        self.begun = self.ended = self.maybe_ended = False

    def note(self, act: Act) -> None:
        if act.what in {"write", "login"}:
            key, value = act.argument
            self.begun = self.begun or act.done
            known = self.possible.get(key, {None})
            self.possible[key] = {value} if act.done else known | {value}
            self.ever[key] = self.ever.get(key, {None}) | {value}
            if self.maybe_ended and act.cookie == "set":
                self._may_begin_anew(key)
        if act.what == "login" and not act.done and act.had_cookie and self._in_traffic:
            # Whoever was logged in before it may be out.
            self.maybe_ended = True
        if act.what == "logout":
            self.ended = self.ended or act.done
            self.maybe_ended = True

    def _may_begin_anew(self, key: str) -> None:
        for other in self.possible.keys() - {key}:
            self.possible[other] |= {None}

    def wrong_keys(self, data: dict[str, Any], *, exact: bool) -> list[str]:
        allowed = self.possible if exact else self.ever
        names = sorted({*data, *allowed})
        return [name for name in names if data.get(name) not in allowed.get(name, {None})]


def nothing_lost(story: Story) -> list[str]:
    """A session shows what was acknowledged: here while Redis is away, everywhere after it."""
    model, wrong = _Model(in_traffic=story.in_traffic), []
    for act in story.acts:
        model.note(act)
        if act.what != "read" or not act.done or act.body["available"] is False:
            continue
        wrong += _wrong_read(story, model, act)
    return wrong


def _wrong_read(story: Story, model: _Model, act: Act) -> list[str]:
    data = act.body["data"]
    if model.ended:
        return [f"I2: {act.place} still shows {data}"] if data and not _is_elsewhere(act) else []
    may_be_gone = story.loses and not story.gives_back and act.phase == "after"
    if not data and (model.maybe_ended or may_be_gone):
        return []  # whether it is gone, the cell's record tells
    if not data and model.begun:
        return [f"I1: {act.place} shows a visitor, and nobody has logged out"]
    alone = story.processes == 1
    exact = alone if act.phase == "during" or story.gives_back else not story.loses
    keys = model.wrong_keys(data, exact=exact)
    return [f"I3: {act.place} shows {key}={data.get(key)!r}, and should not" for key in keys]


def told_loss(story: Story) -> list[str]:
    """Say what Redis had acknowledged and then lost, as far as it was seen: no violation."""
    if not story.loses:
        return []
    model, lost = _Model(), []
    for act in story.acts:
        model.note(act)
        if act.phase != "after":
            continue
        if act.what == "consume" and act.status == 400 and not _was_good(story, act.argument):
            lost.append("state")
        if act.what == "read" and act.done and not model.maybe_ended:
            data = act.body["data"]
            if model.wrong_keys(data, exact=True):
                lost.append("last writes" if data else "session")
    if any(frame.kind in {"gap", "reset"} for each in story.readers.values() for frame in each):
        lost.append("events, told")
    return lost


def _was_good(story: Story, state: str) -> bool:
    return any(act.done for act in story.acts if act.what == "consume" and act.argument == state)


def _is_elsewhere(act: Act) -> bool:
    """In an outage nobody can tell another process that a session has ended."""
    return act.phase == "during" and act.at != 0


# --- I2: what has ended ---------------------------------------------------------------------------


def nothing_resurrected(story: Story) -> list[str]:
    """A cookie that was logged out or replaced opens nothing: here at once, everywhere after."""
    return [
        f"I2: {act.place} with an old cookie shows {act.body['data']}"
        for act in story.acts
        if act.what == "steal" and act.done and act.body["data"] and not _is_elsewhere(act)
    ]


def used_once(story: Story) -> list[str]:
    """The state of a login is good once, on whatever process, and is not forgotten before."""
    wrong = []
    issued = {act.body["state"] for act in story.acts if act.what == "issue" and act.done}
    for state in sorted(issued):
        tries = [act for act in story.acts if act.what == "consume" and act.argument == state]
        good = [act for act in tries if act.done]
        if len(good) > 1:
            wrong.append(f"I2: a state was good {len(good)} times")
        may_be_used = False
        for act in tries:
            if act.status == 400 and not may_be_used and not story.loses:
                wrong.append(f"I3: {act.place} knew nothing of an unused state")
            may_be_used = may_be_used or act.status != 400
    return wrong


# --- I3: events -----------------------------------------------------------------------------------


def delivered(story: Story) -> list[str]:
    """Every reader has each acknowledged event once and in order, or is told of the loss."""
    wrong = []
    acked, lost = _acknowledged(story)
    for by, numbers in sorted(acked.items()):
        kept = list(story.stored.get(by, ()))
        if kept != sorted(set(kept)):
            wrong.append(f"I3: Redis has {by}'s events {kept}")
        if missing := set(numbers) - set(kept) - set(lost.get(by, ())):
            wrong.append(f"I3: Redis lacks {by}'s events {sorted(missing)}")
    for name, frames in story.readers.items():
        wrong += [f"I3: reader {name}: {text}" for text in _of_reader(story, frames, acked, lost)]
    return wrong


_Numbers = dict[str, list[int]]


def _acknowledged(story: Story) -> tuple[_Numbers, _Numbers]:
    """Return what was acknowledged, and what of it Redis lost, which only some faults may do."""
    acked: _Numbers = {}
    lost: _Numbers = {}
    for act in story.acts:
        if act.what != "emit" or not act.done:
            continue
        by, numbers = act.argument
        acked.setdefault(by, []).extend(numbers)
        if story.loses and act.phase == "before":
            kept = story.stored.get(by, ())
            lost.setdefault(by, []).extend(n for n in numbers if n not in kept)
    return acked, lost


def _of_reader(
    story: Story, frames: Sequence[Frame], acked: _Numbers, lost: _Numbers
) -> Iterable[str]:
    last = frames[-1] if frames else None
    if last is None:
        yield "was told nothing"
    elif last.kind in {"denied", "refused"}:
        # With its session goes the right to read.
        if not (story.loses and last.status in {401, 403, 404, 410}):
            yield f"was turned away, {last.status}"
    else:
        if last.kind != "end":
            yield "was never told the end"
        for by, numbers in sorted(acked.items()):
            yield from _of_producer(frames, by, numbers, lost.get(by, []))


def _of_producer(
    frames: Sequence[Frame], by: str, numbers: Sequence[int], lost: Sequence[int]
) -> Iterable[str]:
    """Walk what one reader saw of one publisher; a told loss covers what is missing at its place.

    What Redis lost can be told to who has seen it, and to nobody else: there is no trace of it.
    """
    missing, highest, covered = set(numbers) - set(lost), 0, False
    untold: set[int] = set()
    for frame in frames:
        if frame.kind == "reset":
            # From here another life is read: what was before may come again, or never.
            highest, covered = 0, True
            untold.clear()
        elif frame.kind == "gap":
            covered = True
        elif frame.kind == "event" and frame.by == by:
            if frame.n <= highest:
                yield f"had {by}'s event {frame.n} after {highest}"
            if covered:
                missing -= set(range(highest + 1, frame.n))
                covered = False
            highest = max(highest, frame.n)
            missing.discard(frame.n)
            untold |= {frame.n} & set(lost)
    if covered:
        missing = {n for n in missing if n <= highest}
    if missing:
        yield f"misses {by}'s events {sorted(missing)}"
    if untold:
        yield f"has {by}'s events {sorted(untold)}, and was not told that they are gone"


# --- I5, I6, I7: what a process leaves behind -----------------------------------------------------


def quiet_and_clean(number: int, process: Process) -> list[str]:
    """One line for each transition, nothing left behind, memory bounded."""
    wrong = []
    for place, line in enumerate(process.log):
        if "Traceback" in line:
            ending = (each for each in process.log[place + 1 :] if not each.startswith(" "))
            wrong.append(f"I5: process {number} logged a traceback: {next(ending, '')}")
    told = [found[1] for line in process.log if (found := _TRANSITION.search(line))]
    if any(one == other for one, other in pairwise(told)):
        wrong.append(f"I5: process {number} told {', '.join(told)}")
    for what, slack in (
        ("tasks", SLACK_TASKS),
        ("threads", SLACK_THREADS),
        ("connections", SLACK_CONNECTIONS),
    ):
        before, after = getattr(process, what)
        if after > before + slack:
            wrong.append(f"I6: process {number} has {after} {what}, and had {before}")
    before_mb, after_mb = process.megabytes
    if after_mb > before_mb + SLACK_MEGABYTES:
        wrong.append(f"I7: process {number} grew from {before_mb:.0f} to {after_mb:.0f} MB")
    return wrong


# --- what says that another outage was seen than the one that was made ----------------------------


def was_disturbed(story: Story) -> bool:
    """Whether a request was refused while Redis was well, or the machine had no time for one."""
    refused = any(act.status == 503 for act in story.acts if act.phase != "during")
    return refused or any(act.seconds > BUDGET for act in story.acts)


def tells_of_outage(log: Iterable[str]) -> bool:
    """Whether a process has lost its Redis."""
    return any("Redis is unavailable (" in line for line in log)
