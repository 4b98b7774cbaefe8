"""What a store holds of a session, beside what the handler made of it.

Pure bookkeeping of bytes: it finds the changes by comparing serialized values per top-level key,
and bounds their size. It knows neither stores nor requests.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any

from holdfast.errors import SessionTooLarge
from holdfast.sessions.record import SCALARS, encode_key, encode_value

if TYPE_CHECKING:
    from collections.abc import Mapping

_MISSING = object()


class Ledger:
    """Compares a session's data with what is stored.

    Args:
        stored: by key, the bytes that the store holds.
        data: the values decoded from them.
        max_bytes: what keys and values may come to.
    """

    __slots__ = ("_encoded", "_marks", "_max_bytes", "_size", "stored")

    def __init__(self, stored: Mapping[str, bytes], data: Mapping[str, Any], max_bytes: int):
        self.stored = stored
        # By key: the JSON of a value, and a mark by which the same value is known again.
        self._encoded: dict[str, bytes] = dict(stored)
        self._marks = {key: _mark(value) for key, value in data.items()}
        self._max_bytes = max_bytes
        # Never less than the size; exact once it matters. None: nothing was written yet.
        self._size: int | None = None

    def note(self, values: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Check *values* before they go into *data*, so that the line that wrote them is told.

        Raises:
            TypeError: a key is no str, or a value is not JSON.
            SessionTooLarge: data would be too large with them.
        """
        encoded = {}
        for key, value in values.items():
            encode_key(key)
            encoded[key] = encode_value(key, value, self.stored.get(key))
        size = self._grown(encoded)
        if size > self._max_bytes:
            merged = self._encoded | encoded
            size = self._bound({k: v for k, v in merged.items() if k in data or k in encoded})
        self._size = size
        self._encoded.update(encoded)
        self._marks.update((key, _mark(value)) for key, value in values.items())

    def difference(self, data: dict[str, Any]) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """Return the keys of *data* whose bytes are not those stored, and the keys that are gone.

        Raises:
            TypeError: a value is not JSON (any more).
            SessionTooLarge: data is too large.
        """
        stored, marks = self.stored, self._marks
        changed = {}
        # Unbound, because an unreadable session refuses its own items().
        for key, value in dict.items(data):
            mark = _mark(value)
            known = marks.get(key, _MISSING)
            # Scalars by identity: True is no 1. Of a mark that is None nothing is known.
            same = mark is known if mark is value else mark is not None and mark == known
            raw = self._encoded[key] if same else self._encode(key, value, mark)
            if raw != stored.get(key):
                changed[key] = raw
        removed = tuple(key for key in stored if not dict.__contains__(data, key))
        if changed and self._grown({}) > self._max_bytes:
            self._size = self._bound({key: self._encoded[key] for key in dict.keys(data)})
        return changed, removed

    def settle(self, changed: Mapping[str, bytes], removed: tuple[str, ...]) -> None:
        """Note that the store now holds *changed* and no longer *removed*."""
        kept = {key: raw for key, raw in self.stored.items() if key not in removed}
        self.stored = kept | dict(changed)

    def forget(self) -> None:
        """Note that the store holds nothing any more."""
        self.stored = {}

    def _encode(self, key: str, value: Any, mark: Any) -> bytes:
        encode_key(key)
        raw = encode_value(key, value, self.stored.get(key))
        self._size = self._grown({key: raw})
        self._encoded[key], self._marks[key] = raw, mark
        return raw

    def _grown(self, encoded: Mapping[str, bytes]) -> int:
        """Return the size with *encoded* added; what was deleted since still counts in it."""
        known = self._encoded
        size = _size(known) if self._size is None else self._size
        for key, raw in encoded.items():
            before = known.get(key)
            size += len(raw) + len(key.encode()) if before is None else len(raw) - len(before)
        return size

    def _bound(self, fields: Mapping[str, bytes]) -> int:
        size = _size(fields)
        if size > self._max_bytes:
            largest = max(fields, key=lambda key: len(fields[key]))
            raise SessionTooLarge(
                f"the session would have {size} bytes, and HOLDFAST_SESSION_MAX_BYTES allows "
                f"{self._max_bytes}; its largest key is {largest!r} with {len(fields[largest])}"
            )
        return size


def _mark(value: Any) -> Any:
    """Return something by which *value* is known again; ``None`` where nothing is.

    A scalar is its own mark. A container is marked by ``marshal``, a tenth of the cost of JSON:
    equal bytes are equal values of equal types, and where they differ JSON has the word. They are
    only ever compared, never loaded.
    """
    if type(value) in SCALARS:
        return value
    try:
        # Version 2 has no back references, so that bytes do not depend on who else holds a part.
        return marshal.dumps(value, 2)
    except (ValueError, TypeError):
        return None


def _size(fields: Mapping[str, bytes]) -> int:
    return sum(len(key.encode()) + len(raw) for key, raw in fields.items())
