"""How runs look while they are followed: lines for a file or a pipe, a living line for a terminal.

Only what to print and when; where the items come from is not known here.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
import unicodedata
from typing import TYPE_CHECKING, TextIO

import click

from holdfast.client import End, Failed, Gap, Item, Reset
from holdfast.streams.event import TERMINAL_TYPES, StreamEvent, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REFRESH = 0.5
RATE_WINDOW = 5.0

# What a terminal would obey in place of showing it: C0 and C1 controls (ECMA-48), and the marks
# that turn the direction of the text around them (CVE-2021-42574).
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return *text* with what a terminal would obey spelled out."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def make_view(runs: Sequence[str], out: TextIO, *, as_json: bool = False) -> View:
    """Return the view of *runs* that fits *out*; of several, each line says of which it is."""
    if as_json:
        return View(out, as_frame)
    spell = as_line if len(runs) == 1 else as_line_of_run
    if out.isatty():
        return LiveView(" ".join(runs), out, spell=spell)
    return View(out, spell)


def as_frame(item: Item) -> str:
    """*item* as the JSON frame that a WebSocket carries, without anything a terminal obeys."""
    match item:
        case StreamEvent():
            frame = {
                "kind": "event",
                "run_id": item.run_id,
                "id": item.id,
                "type": item.type,
                "data": item.data,
                "created_at": rfc3339(item.created_at),
            }
        case End():
            frame = {"kind": "end", "run_id": item.run_id}
        case Failed():
            frame = {"kind": "error", "run_id": item.run_id, "code": item.code}
        case _:
            kind = "gap" if isinstance(item, Gap) else "reset"
            ids = {"requested": item.requested, "earliest": item.earliest}
            frame = {"kind": kind, "run_id": item.run_id, **ids}
    return printable(json.dumps(frame, ensure_ascii=False, separators=(",", ":")))


def as_line(item: Item) -> str:
    """*item* for people, as one line."""
    match item:
        case StreamEvent():
            data = json.dumps(item.data, ensure_ascii=False, separators=(",", ":"))
            at = f"{item.created_at.astimezone():%H:%M:%S}.{item.created_at.microsecond // 1000:03}"
            return printable(f"{at}  {item.id}  {item.type}  {data}")
        case Gap():
            return printable(
                f"-- gap: nothing is kept between {item.requested} and {item.earliest}"
            )
        case Reset():
            return "-- reset: the run was begun anew; what follows is from its start"
        case End():
            return "-- end"
        case Failed():
            return printable(f"-- cannot be read: {item.code}")


def as_line_of_run(item: Item) -> str:
    """The same with the run it is of."""
    return f"{printable(item.run_id)}  {as_line(item)}"


class View:
    """Prints each item as a line."""

    def __init__(self, out: TextIO, spell: Callable[[Item], str]) -> None:
        self._completed: dict[str, bool] = {}
        self._out = out
        self._spell = spell

    @property
    def completed(self) -> bool:
        """Whether every run ended with ``workflow_complete``."""
        return bool(self._completed) and all(self._completed.values())

    def show(self, item: Item) -> None:
        """Print *item* at once: who reads a pipe wants it now."""
        self._note(item)
        print(self._spell(item), file=self._out, flush=True)

    def tell(self, trouble: str) -> None:
        """Say why nothing comes, to who looks and not to what reads the lines."""
        click.echo(f"holdfast: {printable(trouble)}", err=True)

    async def keep_fresh(self) -> None:
        """Print what changes while nothing comes: here nothing does."""

    def close(self) -> None:
        """Leave the terminal as it was."""

    def _note(self, item: Item) -> None:
        if isinstance(item, StreamEvent):
            self._completed[item.run_id] = item.type == "workflow_complete"
        elif isinstance(item, Reset | Failed):
            self._completed[item.run_id] = False
        else:
            self._completed.setdefault(item.run_id, False)


class LiveView(View):
    """Lines that fit the terminal, and under them one that lives: how much came, how fast, when."""

    def __init__(
        self,
        run: str,
        out: TextIO,
        clock: Callable[[], float] = time.monotonic,
        *,
        spell: Callable[[Item], str] = as_line,
    ) -> None:
        super().__init__(out, spell)
        self._run = printable(run)
        self._clock = clock
        self._count = 0
        self._arrivals: list[float] = []
        self._state = "waiting"

    def show(self, item: Item) -> None:
        self._note(item)
        line = _fitting(self._spell(item))
        self._out.write(f"\r\x1b[K{click.style(line, fg=_colour(item))}\n")
        self._count += isinstance(item, StreamEvent)
        self._arrivals.append(self._clock())
        self._state = "ended" if isinstance(item, End) else "live"
        self._refresh()

    def tell(self, trouble: str) -> None:
        self._state = "waiting"
        self._out.write(f"\r\x1b[K{click.style(_fitting(printable(trouble)), fg='yellow')}\n")
        self._refresh()

    async def keep_fresh(self) -> None:
        while True:
            self._refresh()
            await asyncio.sleep(REFRESH)

    def close(self) -> None:
        self._refresh()
        self._out.write("\n")
        self._out.flush()

    def _refresh(self) -> None:
        self._out.write(f"\r\x1b[K{click.style(_fitting(self.status), reverse=True)}")
        self._out.flush()

    @property
    def status(self) -> str:
        """The living line."""
        now = self._clock()
        last = f", the last {now - self._arrivals[-1]:.0f} s ago" if self._arrivals else ""
        self._arrivals = [at for at in self._arrivals if now - at < RATE_WINDOW] or (
            self._arrivals[-1:]
        )
        rate = sum(now - at < RATE_WINDOW for at in self._arrivals) / RATE_WINDOW
        return f" {self._state}  {self._count} events, {rate:.1f}/s{last}  {self._run} "


def _fitting(text: str) -> str:
    """Return *text* cut to the terminal, or a long line would wrap over what is to be redrawn."""
    room = shutil.get_terminal_size().columns - 2
    for at, letter in enumerate(text):
        room -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if room < 0:
            return f"{text[:at]}…"
    return text


def _colour(item: Item) -> str | None:
    if isinstance(item, StreamEvent):
        if item.type not in TERMINAL_TYPES:
            return None
        return "green" if item.type == "workflow_complete" else "red"
    if isinstance(item, Failed):
        return "red"
    return "yellow" if isinstance(item, Gap | Reset) else "bright_black"
