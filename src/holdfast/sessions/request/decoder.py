"""What a process has decoded a moment ago, known again: most requests find what the last one did.

Values and bytes alone. What is decoded, and what is no JSON, is said in ``record.py``.
"""

from __future__ import annotations

from marshal import dumps, loads
from typing import TYPE_CHECKING, Any

from holdfast.sessions.record import decode_fields, decode_value

if TYPE_CHECKING:
    from collections.abc import Mapping

# How many sessions are known, and how many bytes the marshalled values of one may have.
_MOST_SESSIONS, _MOST_BYTES = 256, 16 * 1024


class Decoder:
    """Decodes sessions; of those that it has seen lately, only what has changed.

    It keeps the values marshalled, beside the bytes that they were decoded from, and makes them
    anew for each request: no request sees what another does to them.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Mapping[str, bytes], bytes]] = {}

    def decode(self, id_hash: str, fields: Mapping[str, bytes]) -> tuple[dict[str, Any], object]:
        """Return the data of a session as ``decode_fields`` does, and its mark.

        Raises:
            CorruptData: one of the values is no JSON.
        """
        known = self._known.get(id_hash)
        if known is None or known[0].keys() != fields.keys():
            data = decode_fields(fields)
        else:
            before, seen = known
            data = loads(seen)  # noqa: S302 - bytes made here
            if before == fields:
                return data, seen
            for key, raw in fields.items():
                if before[key] != raw:
                    data[key] = decode_value(key, raw)
        mark = mark_of(data)
        if isinstance(mark, bytes) and len(mark) <= _MOST_BYTES:
            # All are forgotten at once: choosing the oldest would take a lock.
            if len(self._known) >= _MOST_SESSIONS:
                self._known.clear()
            self._known[id_hash] = dict(fields), mark
        return data, mark


def mark_of(value: Any) -> object:
    """Return something that is equal for equal values: a fingerprint of *value*.

    It is made by ``marshal``, at a tenth of the cost of JSON: equal bytes are equal values of equal
    types. Different bytes may be of equal values: then their JSON is compared. The bytes neither
    leave the process nor enter it.
    """
    try:
        # Version 2 has no back references, so that the bytes depend on the values alone, and not on
        # which of them are the same object.
        return dumps(value, 2)
    except (ValueError, TypeError):
        return object()  # equal to nothing else
