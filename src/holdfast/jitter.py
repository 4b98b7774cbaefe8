"""Chance that spreads load: how long to wait, whom to ask. It guards nothing.

From the system and not from ``random``: an application that seeds that gets its own numbers, drawn
by nobody else, and forked workers do not all wait equally long.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

_system = random.SystemRandom()


def between(low: float, high: float) -> float:
    """Return a number from *low* to *high*, each as likely as the other."""
    return _system.uniform(low, high)


def one_of(choices: Sequence[T]) -> T:
    """Return one of *choices*, each as likely as the other."""
    return _system.choice(choices)
