"""A publisher's part in its run: the name under which it holds the lease, and what it was told.

Values only. Stores write them, publishers read them; nothing here sends or waits.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

StopAnswer = Literal["requested", "ended", "expired"]
"""What became of a request to stop: noted for the run, or too late for it."""

STOP_WAITS = 3600.0
"""Seconds that a request to stop waits for a run that has not begun."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a store answers to whoever wants to publish a run.

    Attributes:
        status: ``mine`` (begun by this claim, or taken over), else what the run is.
        life: the life of the run.
        owner: ``user:<id>`` or ``session:<id_hash>``, where the run has an owner.
    """

    status: Literal["mine", "open", "ended", "expired"]
    life: str | None
    owner: str | None


class Hold:
    """A publisher's hold of its run, told by the store in any thread.

    Args:
        run_id: the run.
        told: called once, in any thread, when the run has been asked to stop; it only takes note.
        lease: whether the run is lost when this process dies; else it is only watched.

    Attributes:
        name: what the lease is held under, ``""`` for none; no other hold has it.
        life: the life of the run, once it is known.
        stopping: whether the run has been asked to stop.
    """

    def __init__(self, run_id: str, told: Callable[[], None], *, lease: bool = True) -> None:
        self.run_id = run_id
        self.name = secrets.token_hex(8) if lease else ""
        self.life: str | None = None
        self.stopping = False
        self._told = told

    def __repr__(self) -> str:
        return f"<Hold of {self.run_id!r}{' stopping' if self.stopping else ''}>"

    def learn(self, life: str | None, *, stopping: bool) -> None:
        """Take note of what a store said."""
        self.life = life or self.life
        if stopping and not self.stopping:
            self.stopping = True
            self._told()
