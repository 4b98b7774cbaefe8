"""How a session's data becomes bytes and comes back: JSON, one document per top-level key.

Pure. Never pickle: what a store hands back is only ever parsed as data (CWE-502). Where the bytes
are kept, and under which id, belongs to the stores.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Never

from holdfast.errors import CorruptData

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Values that no one can change in place: seen to be the same object, they are the same value.
SCALARS = frozenset({str, int, float, bool, type(None)})


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


# The standard library's, because it refuses what faster ones write in silence: NaN as null,
# datetimes and UUIDs as text that comes back as text, integers beyond 64 bits as floats.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
# RFC 8259, section 2. Ours are written without.
_BLANKS = " \t\n\r"
# A value that no application has and no broken one is likely to hold.
_MARK = "\x1fholdfast\x1f"
_BETWEEN = f",{json.dumps(_MARK)},".encode()
# What the decoder itself calls.
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]


def encode_value(key: str, value: Any, known: bytes | None = None) -> bytes:
    """Return *value* as compact JSON in UTF-8.

    Args:
        key: the top-level key, for the message.
        value: what to encode.
        known: what the store holds under *key*; an equal result needs no second look.

    Raises:
        TypeError: JSON cannot carry it. The message names *key* and the reason, never the value.
    """
    try:
        # Counters are what changes most.
        data = b"%d" % value if type(value) is int else _encode(value).encode()
        if data != known and type(value) not in SCALARS:
            _check_keys(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"session[{key!r}] cannot be kept as JSON: {_reason(error)}") from None
    return data


def encode_key(key: object) -> bytes:
    """Return a top-level key as it is stored.

    Raises:
        TypeError: it is no ``str``, or text that UTF-8 cannot carry.
    """
    if not isinstance(key, str):
        raise TypeError(f"a session's keys must be str, not {type(key).__name__}")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise TypeError(f"the session key {key!r} holds a lone surrogate") from None


def decode_value(key: str, data: bytes) -> Any:
    """Return the value that :func:`encode_value` made *data* of.

    Raises:
        CorruptData: it is no JSON. The message holds nothing of the data.
    """
    try:
        text = data.decode().lstrip(_BLANKS)
        value, end = _scan(text, 0)
        # Only what another hand wrote has blanks around it; ours is spared the search for them.
        return value if end == len(text) else _decoder.decode(text)
    except (StopIteration, ValueError, RecursionError):
        raise CorruptData(f"the stored value of session[{key!r}] is not JSON") from None


def decode_fields(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the data of a whole session, by key in alphabetical order.

    Not every store keeps an order (a Redis hash does not), and one that differs between stores
    would show in production first.

    Raises:
        CorruptData: one of the values is no JSON.
    """
    keys = sorted(fields)
    values = _decoded_at_once(list(map(fields.__getitem__, keys)))
    if values is None:
        return {key: decode_value(key, fields[key]) for key in keys}
    return dict(zip(keys, values, strict=True))


def _decoded_at_once(raws: list[bytes]) -> list[Any] | None:
    """Return what all of *raws* hold; ``None`` where one of them has to be looked at by itself.

    They are read as one document, because every request pays for each call. What is between two of
    them, and in none, tells whether one that is no JSON has been joined to the next.
    """
    try:
        text = (b"[%s]" % _BETWEEN.join(raws)).decode()
        found, end = _scan(text, 0)
    except (StopIteration, ValueError, RecursionError):
        return None
    values: list[Any] = found[::2]
    between = found[1::2]
    if end == len(text) and len(values) == len(raws) and between.count(_MARK) == len(raws) - 1:
        return values
    return None


def _check_keys(value: Any) -> None:
    # json writes {1: …} as {"1": …}, which reads back as something else. The encoder has run, so
    # nothing in here is circular or deeper than it can go.
    if isinstance(value, dict):
        for kind in set(map(type, value)):
            if not issubclass(kind, str):
                raise TypeError(f"a key inside it is {kind.__name__}, not str")
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for child in value:
        if type(child) not in SCALARS:
            _check_keys(child)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return "it holds a lone surrogate"
    text = str(error)
    # Some of the encoder's words end in the value itself; only the kind of trouble is told.
    if "JSON compliant" in text:
        return "NaN and Infinity are no JSON"
    return text.partition(":")[0]
