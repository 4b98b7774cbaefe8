"""Where a reader stands in a run: the position it asks for, and how each event moves it.

Pure. A cursor is a Redis id and, after an outage, what the reader has already seen of each process
that published while Redis was away: ``<Redis id>(~<producer>.<seq>){1,8}``. All events up to the
Redis id have been seen, and of each named producer all up to its number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from holdfast.streams.event import ZERO, EventId, parse_id

MAX_PRODUCERS = 8
_SEEN = re.compile(r"([A-Za-z0-9]{1,32})\.([1-9][0-9]{0,18})", re.ASCII)


@dataclass(slots=True)
class Cursor:
    """A reader's position; it moves as events are taken.

    Attributes:
        base: everything stored up to this id has been seen.
        seen: per producer, the last number seen that is not yet known to be stored at or below
            *base*.
    """

    base: EventId = ZERO
    seen: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.base) + "".join(f"~{producer}.{seq}" for producer, seq in self.seen.items())

    def has_seen(self, producer: str | None, seq: int) -> bool:
        """Whether this reader got event *seq* of *producer* while it was not yet stored."""
        return producer is not None and 0 < seq <= self.seen.get(producer, 0)

    def reaches(self, producer: str | None, seq: int, stored_by: EventId | None) -> bool:
        """Whether event *seq* of *producer* has been seen, stored or not.

        Args:
            seq: its number; 0 for an event that never was.
            stored_by: an id at or above its own, ``None`` where it is not known to be stored.
        """
        known = stored_by is not None and stored_by <= self.base
        return not seq or known or self.has_seen(producer, seq)

    def advance(self, event_id: EventId, producer: str | None, seq: int) -> None:
        """Move past a stored event. A producer whose last seen event is stored needs no suffix."""
        self.base = event_id
        if producer is not None and self.seen and seq >= self.seen.get(producer, seq + 1):
            del self.seen[producer]

    def advance_provisional(self, producer: str, seq: int) -> bool:
        """Move past an event that is not stored yet. False when a ninth producer does not fit."""
        if producer not in self.seen and len(self.seen) >= MAX_PRODUCERS:
            return False
        self.seen[producer] = seq
        return True


class _Tail:
    """The position ``$``: only what comes from now on."""

    def __repr__(self) -> str:
        return "TAIL"


TAIL: Final = _Tail()
Position = Cursor | _Tail


def parse_position(text: str | None, *, allow_tail: bool = True) -> Position | None:
    """Return the position that *text* asks for, or ``None`` where it is malformed.

    ``None``, an empty text, ``0`` and ``-1`` (which LangGraph's client sends) mean the start, ``$``
    only what comes from now.
    """
    if text is None or text in {"", "0", "-1"}:
        return Cursor()
    if text == "$":
        return TAIL if allow_tail else None
    base, *suffixes = text.split("~")
    event_id = parse_id(base)
    if event_id is None or len(suffixes) > MAX_PRODUCERS:
        return None
    seen: dict[str, int] = {}
    for suffix in suffixes:
        match = _SEEN.fullmatch(suffix)
        if match is None or match[1] in seen:
            return None
        seen[match[1]] = int(match[2])
    return Cursor(event_id, seen)
