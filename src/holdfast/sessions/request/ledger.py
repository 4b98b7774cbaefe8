"""What a store holds of a session, beside what the handler made of it.

Pure bookkeeping of bytes: it finds the changes by comparing serialized values per top-level key,
and bounds their size. It knows neither stores nor requests.
"""

from __future__ import annotations

from itertools import repeat
from marshal import dumps, loads
from typing import TYPE_CHECKING, Any

from holdfast.errors import SessionTooLarge
from holdfast.sessions.record import decode_value, encode_key, encode_value
from holdfast.sessions.request.decoder import mark_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNKNOWN = object()
_NOTHING = mark_of({})


class Ledger:
    """Compares a session's data with what is stored.

    Args:
        stored: by key, the bytes that the store holds.
        max_bytes: what keys and values may come to.
        mark: of the data decoded from them; see :func:`mark_of`.
    """

    __slots__ = (
        "_clean",
        "_encoded",
        "_marks",
        "_max_bytes",
        "_size",
        "_told",
        "_whole",
        "stored",
    )

    def __init__(
        self, stored: Mapping[str, bytes], max_bytes: int, mark: object = _NOTHING
    ) -> None:
        self.stored = stored
        # The mark of all that is stored: most requests change nothing, and one comparison tells.
        self._whole = mark
        # The marks of what is stored, by key; made once something has changed.
        self._clean: dict[str, object] | None = None
        # Of the last difference: the mark of all data then, and the changed and removed keys.
        self._told: tuple[object, object, object] = (None, None, None)
        # By key, the JSON of the value last seen, and the mark of that.
        self._encoded: dict[str, bytes] = dict(stored)
        self._marks: dict[str, object] = {}
        self._max_bytes = max_bytes
        # Never less than the real size, and exact once it exceeds the bound. None: nothing was
        # written yet.
        self._size: int | None = None

    def note(self, values: dict[str, Any], data: Mapping[str, Any]) -> dict[str, bytes]:
        """Check *values* before they go into *data*, so that the line that wrote them is told.

        Returns:
            Their JSON.

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
        for key, value in values.items():
            self._marks[key] = mark_of(value)
        return encoded

    def raw(self, key: str, data: dict[str, Any]) -> tuple[bytes | None, bool]:
        """Return the JSON of *key* in *data*, ``None`` for none, and whether that is stored.

        Raises:
            TypeError: the value is not JSON (any more).
        """
        stored = self.stored.get(key)
        if not dict.__contains__(data, key):
            return None, stored is None
        raw = encode_value(key, dict.__getitem__(data, key), stored)
        return raw, raw == stored

    def difference(self, data: dict[str, Any]) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """Return the keys of *data* whose bytes are not those stored, and the keys that are gone.

        Raises:
            TypeError: a value is not JSON (any more).
            SessionTooLarge: data is too large.
        """
        copy = _copy(data)
        whole = mark_of(copy)
        if whole == self._whole:
            return {}, ()
        present, clean = self._suspects(copy)
        stored, changed = self.stored, {}
        for key, mark in present.items():
            if clean.get(key) == mark:
                continue
            known = self._marks.get(key) == mark
            # The method of dict: that of an unreadable session refuses.
            raw = self._encoded[key] if known else self._encode(key, dict.get(data, key), mark)
            if raw != stored.get(key):
                changed[key] = raw
        removed: tuple[str, ...] = ()
        if not stored.keys() <= dict.keys(data):
            removed = tuple(key for key in stored if not dict.__contains__(data, key))
        if changed and self._grown({}) > self._max_bytes:
            self._size = self._bound({key: self._encoded[key] for key in dict.keys(data)})
        self._told = whole, changed, removed
        return changed, removed

    def _suspects(self, data: dict[str, Any]) -> tuple[dict[str, object], dict[str, object]]:
        """Return the marks of what may have changed, as it is in *data* and as it is stored."""
        if self._marks and self._clean is None and self._only_assigned(data):
            # Nothing was changed in place, and so no other key has to be looked at.
            return {key: mark_of(data[key]) for key in self._marks if key in data}, {}
        return _marks(data), self._clean_marks()

    def _only_assigned(self, data: dict[str, Any]) -> bool:
        """Whether all that was not assigned is as it was."""
        trial = data.copy()
        for key in self._marks:
            raw = self.stored.get(key)
            if raw is None:
                trial.pop(key, None)
            else:
                trial[key] = decode_value(key, raw)
        return mark_of(trial) == self._whole

    def settle(self, changed: Mapping[str, bytes], removed: tuple[str, ...]) -> None:
        """Note that the store now holds *changed* and no longer *removed*."""
        if not (changed or removed):
            return
        stored = {**self.stored, **changed}
        for key in removed:
            stored.pop(key, None)
        whole, *told = self._told
        if told[0] is changed and told[1] is removed:
            self._whole, self._clean = whole, None
        else:
            self._settle_keys(changed, removed)
        self.stored = stored

    def _settle_keys(self, changed: Mapping[str, bytes], removed: tuple[str, ...]) -> None:
        clean, self._whole = self._clean_marks(), _UNKNOWN
        for key, raw in changed.items():
            # Another task may have written the key since: then its mark is not of what is stored.
            mine = self._encoded.get(key) == raw
            clean[key] = self._marks.get(key, _UNKNOWN) if mine else _UNKNOWN
        for key in removed:
            clean.pop(key, None)

    def _clean_marks(self) -> dict[str, object]:
        if self._clean is None:
            # Where the whole could not be marshalled, no key is known to be unchanged.
            whole = self._whole
            self._clean = _marks(loads(whole)) if isinstance(whole, bytes) else {}  # noqa: S302
        return self._clean

    def forget(self) -> None:
        """Note that the store holds nothing any more."""
        self.stored, self._whole, self._clean = {}, _NOTHING, None

    def _encode(self, key: str, value: Any, mark: object) -> bytes:
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


def _copy(data: dict[str, Any]) -> dict[str, Any]:
    # dict.copy calls the __iter__ of a subclass that has its own, and that counts as an access.
    return dict.copy(data) if type(data).__iter__ is dict.__iter__ else dict(dict.items(data))


def _marks(data: dict[str, Any]) -> dict[str, object]:
    """Return, by key, a :func:`mark_of` of the value."""
    values = dict.values(data)
    try:
        return dict(zip(dict.keys(data), map(dumps, values, repeat(2)), strict=True))
    except (ValueError, TypeError):
        return {key: mark_of(value) for key, value in dict.items(data)}


def _size(fields: Mapping[str, bytes]) -> int:
    return sum(map(len, fields.values())) + len("".join(fields).encode())
