"""What a store holds of a session, beside what the handler made of it.

Pure bookkeeping of bytes: it finds the changes by comparing serialized values per top-level key,
and bounds their size. It knows neither stores nor requests.
"""

from __future__ import annotations

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

    __slots__ = ("_encoded", "_max_bytes", "_values", "stored")

    def __init__(self, stored: Mapping[str, bytes], data: Mapping[str, Any], max_bytes: int):
        self.stored = stored
        self._encoded: dict[str, bytes] = dict(stored)
        self._values: dict[str, Any] = dict(data)
        self._max_bytes = max_bytes

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
        merged = self._encoded | encoded
        # What was deleted meanwhile is counted only if the quick sum is too much.
        if _size(merged) > self._max_bytes:
            self._bound({k: v for k, v in merged.items() if k in data or k in encoded})
        self._encoded = merged
        self._values.update(values)

    def difference(self, data: dict[str, Any]) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """Return the keys of *data* whose bytes are not those stored, and the keys that are gone.

        Raises:
            TypeError: a value is not JSON (any more).
            SessionTooLarge: data is too large.
        """
        stored, encoded, values = self.stored, self._encoded, self._values
        changed = {}
        # Unbound, because an unreadable session refuses its own items().
        for key, value in dict.items(data):
            if type(value) in SCALARS and values.get(key, _MISSING) is value:
                raw = encoded[key]
            else:
                encode_key(key)
                raw = encode_value(key, value, stored.get(key))
            if raw != stored.get(key):
                changed[key] = raw
        if changed:
            self._bound({k: v for k, v in stored.items() if dict.__contains__(data, k)} | changed)
        removed = tuple(key for key in stored if not dict.__contains__(data, key))
        return changed, removed

    def settle(self, changed: Mapping[str, bytes], removed: tuple[str, ...]) -> None:
        """Note that the store now holds *changed* and no longer *removed*."""
        kept = {key: raw for key, raw in self.stored.items() if key not in removed}
        self.stored = kept | dict(changed)

    def forget(self) -> None:
        """Note that the store holds nothing any more."""
        self.stored = {}

    def _bound(self, fields: Mapping[str, bytes]) -> None:
        size = _size(fields)
        if size > self._max_bytes:
            largest = max(fields, key=lambda key: len(fields[key]))
            raise SessionTooLarge(
                f"the session would have {size} bytes, and HOLDFAST_SESSION_MAX_BYTES allows "
                f"{self._max_bytes}; its largest key is {largest!r} with {len(fields[largest])}"
            )


def _size(fields: Mapping[str, bytes]) -> int:
    return sum(len(key.encode()) + len(raw) for key, raw in fields.items())
