"""Whatever an agent hands out, as JSON of a size that an event may have.

Values in, values out. Nothing here knows a library: what can dump itself is asked to. What is no
JSON is named by its class and never shown by its ``repr``, which may hold a key or a password.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterator

Made: TypeAlias = tuple[str, Any]
"""The type and the data of an event to be published."""

MAX_DEPTH = 60
"""Containers within each other; what is deeper is named only."""
MAX_PARTS = 1 << 18
"""Parts of one value, what is shared counted each time; containers beyond it are named only."""
MAX_BITS = 1 << 12
"""Of an integer: Python writes and reads none of more than 4300 digits."""
MAX_MESSAGE = 10_000
"""Characters of an error's message."""

_TEXT_TYPES = frozenset({"token", "thinking", "tool_call_delta"})


def plain(value: Any) -> Any:
    """Return *value* as JSON: what has a dump of its own by that, the rest by its parts."""
    return _Walk().plain(value)


def unknown(value: Any) -> dict[str, str]:
    """Return what stands for a value that JSON cannot carry: the name of its class."""
    return {"not_json": type(value).__qualname__}


def error_of(error: BaseException) -> dict[str, str]:
    """Return what is told of an error: its class and message, without a traceback."""
    return {"type": type(error).__name__, "message": _text(str(error))[:MAX_MESSAGE]}


def sized(kind: str, data: dict[str, Any], limit: int) -> Iterator[Made]:
    """Yield the event, made to fit: text in several events, other parts by their size alone.

    Args:
        limit: bytes of the data as compact JSON.
    """
    data = {name: plain(part) for name, part in data.items()}
    if _size(data) <= limit:
        yield kind, data
    elif kind in _TEXT_TYPES and isinstance(data.get("text"), str):
        text = data["text"]
        if len(text) < 2:
            yield kind, _reduced(data, limit)
            return
        half = len(text) // 2
        yield from sized(kind, {**data, "text": text[:half]}, limit)
        yield from sized(kind, {**data, "text": text[half:]}, limit)
    else:
        yield kind, _reduced(data, limit)


def _reduced(data: dict[str, Any], limit: int) -> dict[str, Any]:
    """The largest parts are replaced by how large they were, until the rest fits."""
    reduced = dict(data)
    for name in sorted(data, key=lambda name: _size(data[name]), reverse=True):
        if _size(reduced) <= limit:
            break
        reduced[name] = {"too_large": _size(data[name])}
    return reduced


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


class _Walk:
    """One walk through a value, which ends also where the value leads back to itself."""

    def __init__(self) -> None:
        self._above: list[int] = []  # the ids of what the walk is within, so none is reused
        self._left = MAX_PARTS

    def plain(self, value: Any) -> Any:
        self._left -= 1
        if isinstance(value, str):
            return _text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() < MAX_BITS else unknown(value)
        if isinstance(value, float):
            # JSON has no NaN and no infinity (RFC 8259 section 6).
            return float(value) if math.isfinite(value) else str(value)
        return self._object(value)

    def _object(self, value: Any) -> Any:
        # A bound of the depth alone leaves 2 ** depth steps to a cycle of two branches.
        if id(value) in self._above or len(self._above) >= MAX_DEPTH or self._left < 0:
            return unknown(value)
        self._above.append(id(value))
        try:
            return self._whole(value)
        finally:
            self._above.pop()

    def _whole(self, value: Any) -> Any:
        match value:
            case Mapping():
                found: Any = {self._key(key): self.plain(part) for key, part in value.items()}
            case list() | tuple() | set() | frozenset():
                found = [self.plain(part) for part in value]
            case Enum():
                found = self.plain(value.value)
            case date() | time():
                found = value.isoformat()
            case UUID() | PurePath() | Decimal():
                found = _text(str(value))
            case type():
                found = unknown(value)
            case _ if getattr(value, "shape", None) == () and hasattr(value, "item"):
                found = self.plain(value.item())  # one number of a library of arrays
            case _ if hasattr(value, "model_dump"):
                found = self._dumped(value)
            case _ if is_dataclass(value):
                names = [each.name for each in fields(value)]
                found = {name: self.plain(getattr(value, name, None)) for name in names}
            case _:
                found = unknown(value)
        return found

    def _dumped(self, value: Any) -> Any:
        """Pydantic's own dump: it knows what is hidden, excluded or named otherwise."""
        for mode in ("json", "python"):  # bytes that are no text end the first
            try:
                dump = value.model_dump(mode=mode, warnings=False, fallback=self.plain)
                return self.plain(dump)
            except Exception:  # noqa: BLE001, S112 - anybody's code, and the run goes on without it
                continue
        return unknown(value)

    def _key(self, key: Any) -> str:
        found = self.plain(key.value if isinstance(key, Enum) else key)
        return found if isinstance(found, str) else json.dumps(found)


def _text(text: str) -> str:
    """Half a surrogate pair, which UTF-8 cannot carry, becomes a question mark."""
    if text.isascii():
        return str.__str__(text)  # of a text that is a member of an enumeration, its value
    return text.encode("utf-8", "replace").decode()
