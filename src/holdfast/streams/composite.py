"""Where a reader of many runs stands: one text that resumes them all.

Pure. It is opaque to whoever carries it, and small: at most :data:`MAX_TEXT` characters for
:data:`MAX_RUNS` runs, because it travels in a header (``Last-Event-ID``). Run ids are not in it,
only their hashes; a checksum tells a text that was cut or made up. It proves nothing and grants
nothing: whoever may read a run may begin anywhere.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from holdfast.streams.cursor import MAX_PRODUCERS, TAIL, Cursor, Position
from holdfast.streams.event import MAX_PART, ZERO, EventId

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

MAX_RUNS = 100
"""How many runs one connection carries, and one composite holds."""

MAX_TEXT = 4096
"""Characters of the longest composite: proxies allow a request's headers 8 kB."""

_VERSION = b"\x01"
_HASH_BYTES = 8
_GONE = MAX_PRODUCERS + 1
"""In the place of a number of producers: the run was told as one of which nothing can be read."""

_MAX_SEQ = 10**19 - 1
_MAX_PRODUCER = 32


class _Gone:
    """The place of a run that was told as not found or expired."""

    def __repr__(self) -> str:
        return "GONE"


GONE: Final = _Gone()
Place = Cursor | _Gone


class Composite:
    """The places of many runs; it moves as their events are taken.

    A run that is not in it is read from its start.

    Args:
        places: where each run stands, by the hash of its id.
        tail: it was asked for as ``$``: runs that are not in it begin with what comes from now.
    """

    def __init__(
        self, places: Mapping[bytes, Place] = MappingProxyType({}), *, tail: bool = False
    ) -> None:
        self._tail = tail
        self._places = dict(places)
        # What each place looks like, so that one event costs the spelling of one run.
        self._spelled = {run: _spell(run, place) for run, place in places.items()}
        self._suffixed = {run for run, place in places.items() if _producers_of(place)}

    def __str__(self) -> str:
        """The text; while an outage lasts it may be too long, see :attr:`is_long`."""
        producers = self._producers()
        index = {name: at for at, name in enumerate(producers)}
        pieces = [_VERSION, _number(len(producers))]
        pieces += [_number(len(name)) + name.encode() for name in producers]
        for run, spelled in self._spelled.items():
            pieces.append(_suffixes(self._places[run], spelled, index) if index else spelled)
        body = b"".join(pieces)
        whole = body + zlib.crc32(body).to_bytes(4)
        return base64.urlsafe_b64encode(whole).rstrip(b"=").decode()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def is_start(self) -> bool:
        """Whether every run is read from its start."""
        return not (self._places or self._tail)

    @property
    def is_long(self) -> bool:
        """Whether the text is longer than :data:`MAX_TEXT`: only processes that it names do that.

        Then the :meth:`heaviest` run has to begin anew, and be told so.
        """
        return bool(self._suffixed) and len(str(self)) > MAX_TEXT

    def place(self, run_id: str) -> Place | None:
        """Return where *run_id* stands, ``None`` where the composite does not know it."""
        return self._places.get(_hash(run_id))

    def position(self, run_id: str) -> Position:
        """Return where to begin reading *run_id*; a copy, as a reader moves what it gets."""
        place = self.place(run_id)
        if isinstance(place, Cursor):
            return Cursor(place.base, dict(place.seen))
        return TAIL if self._tail and place is None else Cursor()

    def move(self, run_id: str, place: Place) -> None:
        """Put *run_id* at *place*."""
        if isinstance(place, Cursor) and place.base == ZERO and not place.seen:
            self.forget(run_id)
            return
        run = _hash(run_id)
        self._places[run] = place
        self._spelled[run] = _spell(run, place)
        if _producers_of(place):
            self._suffixed.add(run)
        else:
            self._suffixed.discard(run)

    def forget(self, run_id: str) -> None:
        """Let *run_id* begin at its start."""
        self._forget([_hash(run_id)])

    def keep_room(self, open_runs: Collection[str]) -> None:
        """Forget the oldest places of runs that are read no more, so that all those open fit."""
        kept = {_hash(run_id) for run_id in open_runs}
        others = [run for run in self._places if run not in kept]
        # An open run that has no place yet will have one.
        self._forget(others[: max(len(others) + len(kept) - MAX_RUNS, 0)])

    def forget_others(self, open_runs: Collection[str]) -> None:
        """Forget every run but these."""
        kept = {_hash(run_id) for run_id in open_runs}
        self._forget([run for run in self._places if run not in kept])

    def heaviest(self, run_ids: Collection[str]) -> str | None:
        """Return which of *run_ids* names the most producers, ``None`` where none names any."""
        weights = {each: len(_producers_of(self.place(each))) for each in run_ids}
        found = max(weights, key=weights.__getitem__, default=None)
        return found if found is not None and weights[found] else None

    def _forget(self, runs: Iterable[bytes]) -> None:
        for run in runs:
            self._places.pop(run, None)
            self._spelled.pop(run, None)
            self._suffixed.discard(run)

    def _producers(self) -> list[str]:
        """All producers that are named, once: a process life publishes to many runs."""
        named: dict[str, None] = {}
        for place in self._places.values() if self._suffixed else ():
            named.update(dict.fromkeys(_producers_of(place)))
        return list(named)


def parse(text: str | None) -> Composite | None:
    """Return the composite that *text* spells, or ``None`` where it is cut, forged or malformed.

    ``None``, an empty text, ``0`` and ``-1`` mean the start of every run, ``$`` the end of each.
    """
    if text is None or text in {"", "0", "-1"}:
        return Composite()
    if text == "$":
        return Composite(tail=True)
    body = _body(text)
    if body is None:
        return None
    try:
        composite = Composite(_parsed(body))
    except _MalformedError:
        return None
    # Whatever was cut or made up does not have the right version and checksum. And there is one
    # text for one meaning: base64 and numbers of this kind can be spelled in more than one way.
    return composite if str(composite) == text else None


class _MalformedError(Exception):
    """The bytes are no composite, though their sum is right."""


def _body(text: str) -> bytes | None:
    """Return the bytes behind *text* without version and checksum; that is for :func:`parse`."""
    if len(text) > MAX_TEXT:
        return None
    try:
        padded = text + "=" * (-len(text) % 4)
        whole = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return whole[len(_VERSION) : -4]


def _parsed(body: bytes) -> dict[bytes, Place]:
    reader = _Reader(body)
    producers = [reader.producer() for _ in range(reader.number(MAX_RUNS * MAX_PRODUCERS))]
    places: dict[bytes, Place] = {}
    while not reader.at_end:
        run = reader.take(_HASH_BYTES)
        if run in places or len(places) == MAX_RUNS:
            raise _MalformedError
        places[run] = reader.place(producers)
    return places


class _Reader:
    """Walks over the bytes of a composite and refuses what could not have been written."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._body)

    def take(self, count: int) -> bytes:
        taken = self._body[self._at : self._at + count]
        if len(taken) != count:
            raise _MalformedError
        self._at += count
        return taken

    def number(self, most: int) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if value > most or shift > 70:
                raise _MalformedError
            if byte < 0x80:
                return value

    def producer(self) -> str:
        name = self.take(self.number(_MAX_PRODUCER))
        if not (name.isascii() and name.isalnum()):
            raise _MalformedError
        return name.decode()

    def place(self, producers: list[str]) -> Place:
        count = self.number(_GONE)
        if count == _GONE:
            return GONE
        base = EventId(self.number(MAX_PART), self.number(MAX_PART))
        seen: dict[str, int] = {}
        for _ in range(count):
            at = self.number(len(producers) - 1)
            seq = self.number(_MAX_SEQ)
            if producers[at] in seen or not seq:
                raise _MalformedError
            seen[producers[at]] = seq
        if base == ZERO and not seen:
            raise _MalformedError
        return Cursor(base, seen)


@lru_cache(4096)
def _hash(run_id: str) -> bytes:
    # Two runs of one reader that share 64 bits would share a place. Whoever names runs could look
    # for such a pair, and would mislead only the readers of both.
    return blake2b(run_id.encode(), digest_size=_HASH_BYTES, person=b"holdfast.many").digest()


def _producers_of(place: Place | None) -> Mapping[str, int]:
    return place.seen if isinstance(place, Cursor) else {}


def _spell(run: bytes, place: Place) -> bytes:
    """The bytes of a place without producers; those are put in when the text is made."""
    if not isinstance(place, Cursor):
        return run + _number(_GONE)
    return run + _number(0) + _number(place.base.ms) + _number(place.base.seq)


def _suffixes(place: Place, spelled: bytes, index: dict[str, int]) -> bytes:
    named = _producers_of(place)
    if not named:
        return spelled
    base = spelled[_HASH_BYTES + 1 :]
    seen = b"".join(_number(index[name]) + _number(seq) for name, seq in named.items())
    return spelled[:_HASH_BYTES] + _number(len(named)) + base + seen


def _number(value: int) -> bytes:
    """A whole number in base 128, the low digits first, as few bytes as it needs."""
    return bytes(_digits(value))


def _digits(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
