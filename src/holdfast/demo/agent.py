"""An agent that only looks like one: written beforehand, told at the pace of a real one.

Values in, values out: it yields events and knows nothing of who publishes them. Every event carries
its number, so that whoever reads the run can prove that each came once and in order.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Node:
    """A step of the agent's graph begins; its result is published when the next one does."""

    name: str


@dataclass(frozen=True)
class Think:
    text: str


@dataclass(frozen=True)
class Call:
    tool: str
    arguments: dict[str, Any]
    result: str
    seconds: float


@dataclass(frozen=True)
class Say:
    text: str


Step = Node | Think | Call | Say


@dataclass(frozen=True)
class Task:
    title: str
    steps: tuple[Step, ...]


async def work(task: Task, *, rounds: int = 1, speed: float = 1.0) -> AsyncIterator[Event]:
    """Yield the events of *task*, ``rounds`` times over, ``speed`` times as fast as a real agent.

    Each event's data holds its number ``n``, from 1; the last one is ``workflow_complete``.
    """
    begun, n = time.monotonic(), 0
    told = 0.0  # seconds of the story so far: waiting for the sum keeps the pace at any speed
    for pause, kind, data in _story(task, rounds):
        told += pause / speed
        await asyncio.sleep(max(0.0, begun + told - time.monotonic()))
        n += 1
        yield kind, {"n": n, **data}
    seconds = round(time.monotonic() - begun, 1)
    yield "workflow_complete", {"n": n + 1, "seconds": seconds}


def _story(task: Task, rounds: int) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """Yield every event but the last, each with the pause before it in seconds."""
    yield 0.2, "run_started", {"task": task.title}
    calls, node, beat = 0, "", 0
    for step in task.steps * rounds:
        match step:
            case Node(name):
                if node:
                    yield 0.15, "node_output", {"node": node, "output": "done"}
                node = name
                yield 0.25, "node_started", {"node": name}
            case Think(text):
                for piece in re.findall(r"(?:\S+\s*){1,3}", text):
                    beat += 1
                    yield 0.14 * _sway(beat), "thinking", {"text": piece}
            case Call(tool, arguments, result, seconds):
                calls += 1
                yield 0.35, "tool_call", {"call": calls, "tool": tool, "arguments": arguments}
                yield seconds, "tool_result", {"call": calls, "result": result, "seconds": seconds}
            case Say(text):
                for piece in re.findall(r"\S{1,6}\s*", text):
                    beat += 1
                    breath = 0.16 if piece.rstrip()[-1:] in ".:" else 0.0
                    yield 0.045 * _sway(beat) + breath, "token", {"text": piece}
    yield 0.15, "node_output", {"node": node, "output": "done"}


def _sway(beat: int) -> float:
    """Return 0.5 to 1.5, never settling (steps of the golden ratio): the pace seems alive."""
    return 0.5 + (beat * 0.6180339887) % 1
