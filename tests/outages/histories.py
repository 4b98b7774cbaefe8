"""Is what a reader was shown what was acknowledged? Judged by what it saw, and by nothing else.

Pure. A history is what came to one reader, in order: events as ``(producer, number)``, and the
words ``gap`` and ``reset``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Seen = tuple[str, int] | Literal["gap", "reset"]


@dataclass
class _Producer:
    last: int = 0
    had: set[int] = field(default_factory=set)
    # What has come since its last event.
    gap: bool = False
    reset: bool = False


def judge_reader(history: Iterable[Seen], acknowledged: Mapping[str, int]) -> list[str]:
    """Say what is wrong with a history, in words.

    Every event up to the last acknowledged number of each producer has come once and in order, or
    a gap or a reset lies where it is missing. After a reset a run may begin anew.

    Args:
        acknowledged: how many events each producer was told are accepted, numbered from 1.
    """
    wrong: list[str] = []
    producers = {name: _Producer() for name in acknowledged}
    for seen in history:
        if isinstance(seen, str):
            for each in producers.values():
                each.gap = True
                each.reset |= seen == "reset"
            continue
        name, n = seen
        wrong += _judge_event(name, n, producers[name])
    for name, each in producers.items():
        missing = set(range(each.last + 1, acknowledged[name] + 1)) - each.had
        if missing and not each.gap:
            wrong.append(f"{name}: {_spell(missing)} never came")
    return wrong


def _judge_event(name: str, n: int, producer: _Producer) -> list[str]:
    wrong: list[str] = []
    if n <= producer.last and not producer.reset:
        wrong.append(f"{name}: {n} after {producer.last}")
    missing = set(range(producer.last + 1, n)) - producer.had
    if missing and not producer.gap:
        wrong.append(f"{name}: {_spell(missing)} missing before {n}")
    producer.last = n
    producer.had.add(n)
    producer.gap = producer.reset = False
    return wrong


def judge_stored(stored: Iterable[tuple[str, int]], acknowledged: Mapping[str, int]) -> list[str]:
    """Say what is wrong with what Redis holds of a run whose publishers live."""
    wrong: list[str] = []
    numbers: dict[str, list[int]] = {name: [] for name in acknowledged}
    for name, n in stored:
        numbers[name].append(n)
    for name, found in numbers.items():
        if found != sorted(set(found)):
            wrong.append(f"{name}: stored twice, or not in order")
        missing = set(range(1, acknowledged[name] + 1)) - set(found)
        if missing:
            wrong.append(f"{name}: {_spell(missing)} acknowledged and not stored")
    return wrong


def _spell(numbers: Iterable[int]) -> str:
    some: Sequence[int] = sorted(numbers)
    return f"{len(some)} events from {some[0]} to {some[-1]}"
