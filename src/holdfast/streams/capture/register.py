"""The register of one reader of one address: what was answered there, and who reads it now.

It is a run of its own, of three kinds of events, so that every process sees it in one order. What
they add up to is pure; the register only appends and reads them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.streams.capture.living import living_in
from holdfast.streams.event import ZERO, decode_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from holdfast.streams.store import Entry, EventStore

Headers = list[tuple[bytes, bytes]]

MANY = 200
"""Lines after which a register is begun anew, where nothing in it is needed any more."""
_PAGE = 500


@dataclass(slots=True)
class Captured:
    """One captured answer.

    Attributes:
        run_id: its run.
        headers: what may be said again of the headers that it had.
        readers: who reads it, longest first, unless its process was killed.
    """

    run_id: str
    headers: Headers
    readers: list[str] = field(default_factory=list)


def add_up(entries: Iterable[Entry]) -> dict[str, Captured]:
    """Return the answers that a register tells of, oldest first, by run."""
    found: dict[str, Captured] = {}
    for entry in entries:
        # A run can be written to by others: what is no line of ours must not cost the address.
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            _add(found, entry.type, decode_data(entry.data))
    return found


def _add(found: dict[str, Captured], kind: str, line: Any) -> None:
    run_id, reader = line["run"], line["reader"]
    if not (isinstance(run_id, str) and isinstance(reader, str)):
        raise TypeError(kind)
    if kind == "began":
        headers = [(name.encode(), value.encode("latin-1")) for name, value in line["headers"]]
        found[run_id] = Captured(run_id, headers, [reader])
    elif run_id in found:
        readers = found[run_id].readers
        if kind == "reads":
            readers.append(reader)
        elif kind == "left" and reader in readers:
            readers.remove(reader)


class Register:
    """The register of this name in a store.

    Every method raises :class:`~holdfast.errors.RedisUnavailable` where the store cannot be asked,
    but those that append and :meth:`newcomer`: what they say is written when Redis is back.
    """

    def __init__(self, store: EventStore, name: str) -> None:
        self.name = name
        self._store = store
        self._living = living_in(store)

    async def newcomer(self) -> str:
        """Return the name of a new reader, who is gone when this process is killed."""
        return await self._living.reader()

    async def readers(self, captured: Captured) -> list[str]:
        """Return who reads an answer now, longest first."""
        return await self._living.still(captured.readers)

    async def look(self) -> dict[str, Captured]:
        """Return what was answered, oldest first, by run."""
        return add_up(await self._entries())

    async def clear(self) -> None:
        """Begin it anew if it has become long; call it where nothing in it is open."""
        if (await self._store.describe(self.name)).n >= MANY:
            await self._store.delete(self.name)

    async def began(self, run_id: str, reader: str, headers: Headers) -> None:
        """Note a new answer and its first reader."""
        told = [(name.decode(), value.decode("latin-1")) for name, value in headers]
        await self._append("began", run=run_id, reader=reader, headers=told)

    async def reads(self, run_id: str, reader: str) -> None:
        """Note one more reader."""
        await self._append("reads", run=run_id, reader=reader)

    async def left(self, run_id: str, reader: str) -> None:
        """Note that a reader is gone."""
        await self._append("left", run=run_id, reader=reader)

    async def keep(self, seconds: float) -> None:
        """Keep it for at least so long from now."""
        await self._store.set_expire(self.name, seconds)

    async def _append(self, kind: str, **line: Any) -> None:
        await self._store.append(self.name, [self._store.draft(kind, line)])

    async def _entries(self) -> Sequence[Entry]:
        found: list[Entry] = []
        start = ZERO
        while True:
            page = await self._store.read(self.name, start, None, _PAGE)
            found += page
            if len(page) < _PAGE:
                return found
            start = page[-1].id.next()
