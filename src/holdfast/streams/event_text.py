"""The text of an event stream, read as what a page gets of it (WHATWG HTML 9.2.5 and 9.2.6).

Pure. An application's answer that is captured is read here, and what a run is made of.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_BREAK = re.compile(r"\r\n|\n|\r")
"""CR, LF and CRLF, and nothing else that Python calls a line break."""

_DIGITS = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as a page gets it.

    Attributes:
        kind: its type.
        text: its data.
        id: what it sets the page's last event id to, ``None`` where it leaves that alone.
        retry: the reconnection time that it sets, in milliseconds.
    """

    kind: str
    text: str
    id: str | None = None
    retry: int | None = None


Passing = Event | str
"""An event, or text that is none to a page, for who is there to read it: comments, which have no
blank line, and what a blank line ends without data."""


class EventText:
    """Reads an event stream, cut into pieces anywhere.

    Ids and reconnection times that come without data belong to the event that follows.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []
        self._begun = self._after_return = False
        self._comments: list[str] = []
        self._others: list[str] = []
        self._data: list[str] = []
        self._kind = ""
        self._id: str | None = None
        self._retry: int | None = None
        #: Characters of the event that is not complete yet.
        self.pending = 0

    def feed(self, chunk: bytes | str) -> Iterator[Passing]:
        """Return what *chunk* completes."""
        text = chunk if isinstance(chunk, str) else self._decoder.decode(chunk)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if text and self._after_return:
            # A line ends at the carriage return: its line feed may come late, or never.
            self._after_return = False
            text = text.removeprefix("\n")
        if not text:
            return
        self._after_return = text.endswith("\r")
        self.pending += len(text)
        first, *others = LINE_BREAK.split(text)
        self._line.append(first)
        for begun in others:
            yield from self._take("".join(self._line))
            self._line = [begun]

    def rest(self) -> bytes:
        """Return what no blank line has completed: no event to a browser, but text to others."""
        lines = list(self._comments)
        if self._id is not None:
            lines.append(f"id: {self._id}")
        lines += [*self._others, *(f"data: {line}" for line in self._data)]
        left, _ = self._decoder.getstate()
        return "\n".join([*lines, "".join(self._line)]).encode() + left

    def _take(self, line: str) -> Iterator[Passing]:
        if line:
            self._field(line)
            return
        if self._comments:
            # Programs that keep the last id take each blank line after it for the end of an event.
            yield "\n".join(self._comments) + "\n"
        if self._data:
            yield Event(self._kind or "message", "\n".join(self._data), self._id, self._retry)
            self._id = self._retry = None
        elif self._others:
            yield "\n".join(self._others) + "\n\n"
        self._kind, self._data, self._comments, self._others = "", [], [], []
        self.pending = 0

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
            self._others.append(line)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and _DIGITS.fullmatch(value):
            self._retry = int(value)
            self._others.append(line)
        elif not name:
            self._comments.append(line)
