"""What a connection of many runs is told, and how each thing looks on the wire.

Pure. The frames are those of one run (:mod:`holdfast.streams.frames`); what is added is where the
whole connection stands after each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from holdfast.streams.event import to_json

if TYPE_CHECKING:
    from holdfast.streams.frames import Frame

Kind = Literal["event", "gap", "reset", "end", "error", "denied", "added", "dropped"]


@dataclass(frozen=True, slots=True)
class Told:
    """One thing to send.

    Attributes:
        kind: what it is, as the frame says it.
        run_id: of which run; ``None`` where none can be named.
        composite: where the connection stands once this was taken; empty where it did not move.
        frame: the event.
        id: the event's id as a position in its run.
        fields: what else a frame that is no event says.
    """

    kind: Kind
    run_id: str | None
    composite: str = ""
    frame: Frame | None = None
    id: str = ""
    fields: tuple[tuple[str, str | None], ...] = ()

    def json(self) -> str:
        """The frame."""
        if self.frame is not None:
            return self.frame.websocket(self.id)
        return to_json({"kind": self.kind, "run_id": self.run_id, **dict(self.fields)})

    def websocket(self) -> str:
        """The same with the connection's own position in an event."""
        text = replace(self, kind="error").json() if self.kind == "denied" else self.json()
        if self.frame is None or not self.composite:
            return text
        return f'{text[:-1]},"cursor":"{self.composite}"}}'

    def event_source(self, *, envelope: bool = False) -> bytes:
        """The same for ``EventSource``; with *envelope* it is a ``message``, whatever it is."""
        head = f"id: {self.composite}\n" if self.composite else ""
        if not envelope:
            kind = f"holdfast.{self.kind}" if self.frame is None else self.frame.entry.type
            head += f"event: {kind}\n"
        return f"{head}data: {self.json()}\n\n".encode()


def failed(run_id: str | None, code: str, composite: str = "", *, late: bool = False) -> Told:
    """Nothing more comes of a run, for the reason that *code* names.

    Args:
        late: the right to read was refused after the connection had begun without knowing it.
    """
    kind: Kind = "denied" if late else "error"
    return Told(kind, run_id, composite, fields=(("code", code),))
