"""What a client may say on a WebSocket of many runs: read this run too, read that one no more.

Pure. Whatever a client sends is one of the three values here; nothing it sends is an exception.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from holdfast.errors import InvalidEvent
from holdfast.streams.cursor import parse_position
from holdfast.streams.event import check_run_id

if TYPE_CHECKING:
    from holdfast.streams.cursor import Position

MAX_FRAME = 8192
"""Characters of the longest frame; the longest sensible one holds a token of 4096."""


MAX_ECHO = 256
"""Characters said again of a run id that cannot be."""


@dataclass(frozen=True, slots=True)
class Add:
    """Read *run_id* too: from *position* on, or where it stands in the composite."""

    run_id: str
    position: Position | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Read *run_id* no more."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Nonsense:
    """A frame that asks for nothing; *code* says what is wrong with it.

    *run_id* is what it named, which may be no run id; ``None`` where it named nothing.
    """

    code: str
    run_id: str | None = None


Command = Add | Drop | Nonsense


def parse_command(text: str | None) -> Command:
    """Return what the frame *text* asks for; ``None`` stands for a binary frame."""
    if text is None:
        return Nonsense("INVALID_FRAME")
    if len(text) > MAX_FRAME:
        return Nonsense("FRAME_TOO_LARGE")
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        return Nonsense("INVALID_FRAME")
    if not isinstance(frame, dict) or frame.get("kind") not in ("add", "drop"):
        return Nonsense("INVALID_FRAME")
    given = frame.get("run_id")
    try:
        run_id = check_run_id(given)
    except InvalidEvent:
        # Said again as it came: of two adds under way a client learns which one it was.
        return Nonsense("INVALID_RUN_ID", given[:MAX_ECHO] if _is_text(given) else None)
    return Drop(run_id) if frame["kind"] == "drop" else _add(run_id, frame)


def _add(run_id: str, frame: dict[str, Any]) -> Command:
    last_id, token = frame.get("last_id"), frame.get("token")
    if token is not None and not _is_text(token):
        return Nonsense("INVALID_FRAME", run_id)
    if not isinstance(last_id, str | None):
        return Nonsense("INVALID_ID", run_id)
    position = None if last_id is None else parse_position(last_id)
    if last_id is not None and position is None:
        return Nonsense("INVALID_ID", run_id)
    return Add(run_id, position, token)


def _is_text(value: object) -> TypeGuard[str]:
    """Whether *value* is text; JSON can also write half a surrogate pair, which no URL carries."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
