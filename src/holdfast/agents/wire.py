"""A run in somebody else's wire format: what its readers have in common.

It reads the envelopes that an event stream of holdfast is made of and has them spelled otherwise. A
format is an *encoder*: pure, made anew for each reader, and fed from the run's first event on, so
that what a client gets when it comes back is whole by itself. Where these clients resume, they read
again from the beginning; none sends a ``Last-Event-ID``, and none is given an id.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypedDict, Unpack

from starlette.responses import Response

from holdfast import EventStore, RunResponse
from holdfast.errors import InvalidEvent, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
    from types import EllipsisType

    from starlette.background import BackgroundTask
    from starlette.types import Message, Receive, Scope, Send

    from holdfast import Settings
    from holdfast.streams.publishing.sources import Source

Frame = dict[str, Any]
"""One frame of the format, which becomes a line of ``data``."""

Thing = tuple[str, str, str | None]
"""What is open for a client: what it is, its name, and within what the name is its own."""

KINDS = frozenset(
    {
        "model_error",
        "model_finished",
        "node_error",
        "node_output",
        "node_started",
        "run_lost",
        "run_stopped",
        "thinking",
        "token",
        "tool_call",
        "tool_call_delta",
        "tool_error",
        "tool_result",
        "tool_started",
        "workflow_complete",
        "workflow_error",
    }
)
"""The types of events that every format has a word for."""

_ENDS = frozenset({"workflow_complete", "workflow_error", "run_stopped", "run_lost"})
_PRIVATE = {"cache-control": "no-store"}
_AWAY = {**_PRIVATE, "retry-after": "2"}


class Encoder(Protocol):
    """Spells the events of one run, from its first on, for one reader."""

    done: bool
    """Whether the run has been told to its end."""

    def encode(self, kind: str, data: Any) -> Iterable[Frame | str]:
        """Return what the format says of an event; text is sent as it is."""

    def notice(self, kind: str, data: dict[str, Any]) -> Iterable[Frame | str]:
        """Return what the format says where events are gone (``gap``, ``reset``)."""


class Speller(ABC):
    """An encoder by one method for each type of event that its format has a word for.

    A ``message`` whose data is of the format already passes as it is: an agent that speaks it may
    be the source of a run.
    """

    kinds: ClassVar[frozenset[str]]
    """The types that have a method: ``token`` is spelled by ``_token(data)``.

    It returns the frames, or ``None`` where the data is not of the type it says.
    """
    begins: ClassVar[Mapping[str, tuple[str, str]]]
    """Frames of the format that begin something: what, and the field that names it."""
    goes_on: ClassVar[Mapping[str, tuple[str, str]]]
    """Frames that a client refuses where what they go on with is not open."""
    ends: ClassVar[Collection[str]]
    """Those of them that end it."""

    def __init__(self) -> None:
        self.done = False
        self._begun = False
        self._gone = False
        self._open: dict[Thing, Frame] = {}

    def encode(self, kind: str, data: Any) -> Iterator[Frame | str]:
        """Yield the frames of one event."""
        for frame in self._spelled(kind, data):
            if isinstance(frame, dict):
                self._note(frame)
            yield frame

    def notice(self, kind: str, data: dict[str, Any]) -> Iterator[Frame]:
        """Yield what says that events are gone."""
        self._gone = True
        yield from self._beginning()
        yield self._other(kind, data)

    def _spelled(self, kind: str, data: Any) -> Iterator[Frame | str]:
        if kind == "message" and isinstance(data, dict) and self._speaks(data):
            if self._follows(data):
                yield from self._pass(data)
            return
        yield from self._beginning()
        parts = parts_of(kind, data) if kind in self.kinds else None
        found = None if parts is None else getattr(self, f"_{kind}")(parts)
        yield from [self._other(kind, data)] if found is None else found

    def _note(self, frame: Frame) -> None:
        """Keep what is open for the client, whoever has begun it: the run's agent, or we for it."""
        kind = frame["type"]
        if kind in self.begins:
            thing = self._thing(*self.begins[kind], frame)
            self._open[thing] = self._ending(thing, frame)
        elif kind in self.ends:
            self._open.pop(self._thing(*self.goes_on[kind], frame), None)

    def _follows(self, frame: Frame) -> bool:
        """Whether a client takes *frame*: where events are gone, so may be what it goes on with."""
        kind = frame["type"]
        if kind not in self.goes_on or self._thing(*self.goes_on[kind], frame) in self._open:
            return True
        return not self._gone and kind not in self.ends

    def _thing(self, what: str, name: str, frame: Frame) -> Thing:
        """Name what a frame begins, goes on with or ends."""
        return what, str(frame.get(name)), None

    def _ending(self, thing: Thing, begun: Frame) -> Frame:
        """Return what ends the thing that *begun* begins, where a format wants that to be told."""
        return {}

    def _beginning(self) -> Iterator[Frame]:
        if not self._begun:
            self._begun = True
            yield self._start()

    @abstractmethod
    def _speaks(self, data: Frame) -> bool:
        """Whether *data* is of the format already."""

    @abstractmethod
    def _pass(self, frame: Frame) -> Iterator[Frame]:
        """Yield what comes of a frame that is of the format already."""

    @abstractmethod
    def _start(self) -> Frame:
        """Return what the format begins with."""

    @abstractmethod
    def _other(self, kind: str, data: Any) -> Frame:
        """Return what is said of an event that the format has no word for."""


class Options(TypedDict, total=False):
    """What ``RunResponse`` takes beside the run and its source."""

    owner: str | EllipsisType | None
    media_type: str | None
    headers: Mapping[str, str] | None
    background: BackgroundTask | None
    store: EventStore | None
    settings: Settings | None


class WireResponse(RunResponse):
    """A run in a format that a subclass knows; what begins it is as for ``RunResponse``.

    Args:
        source: as for ``RunResponse``; ``None``: only a run that there is, else 204.
    """

    headers_of_format: ClassVar[Mapping[str, str]] = {}
    """Headers that the format asks for, on a stream only."""
    replays: ClassVar[bool] = False
    """Whether a run that has ended is told again, where no source is given."""

    def __init__(
        self, run_id: str, source: Source | None = None, **options: Unpack[Options]
    ) -> None:
        super().__init__(run_id, _nothing() if source is None else source, **options)
        self._attaches_only = source is None
        self._where = options.get("store"), options.get("settings")

    def encoder(self) -> Encoder:
        """Return an encoder for one reader."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = await self._refusal() if self._attaches_only else None
        if refusal is not None:
            refusal.background = self.background
            await refusal(scope, receive, send)
        else:
            spelled = _Spelled(self.encoder(), self.headers_of_format, send)
            await super().__call__(_from_the_beginning(scope), receive, spelled)

    async def _refusal(self) -> Response | None:
        store = self._where[0] or EventStore.from_settings(self._where[1])
        try:
            status = await store.status(self.run_id)
        except RedisUnavailable:
            return Response(None, 503, _AWAY)
        except InvalidEvent:
            return None  # answered as any other bad id is
        there = status == "open" or (status == "ended" and self.replays)
        return None if there else Response(None, 204, _PRIVATE)


class _Spelled:
    """Sends what an encoder makes of the envelopes that are sent to it."""

    def __init__(self, encoder: Encoder, headers: Mapping[str, str], send: Send) -> None:
        self._encoder = encoder
        self._headers = headers
        self._send = send
        self._stream = False
        self._pending = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = self._start(message)
        elif self._stream and message["type"] == "http.response.body":
            message = {**message, "body": self._body(message.get("body", b""))}
            if not message["body"] and message.get("more_body"):
                return
        await self._send(message)

    def _start(self, message: Message) -> Message:
        headers = list(message["headers"])
        kind = dict(headers).get(b"content-type", b"")
        self._stream = message["status"] == 200 and kind.startswith(b"text/event-stream")
        if self._stream:
            headers += [(name.encode(), value.encode()) for name, value in self._headers.items()]
        return {**message, "headers": headers}

    def _body(self, body: bytes) -> bytes:
        *blocks, self._pending = (self._pending + body).split(b"\n\n")
        return b"".join(map(self._block, blocks))

    def _block(self, block: bytes) -> bytes:
        if block.startswith(b":"):
            return block + b"\n\n"  # a heartbeat
        data = b"".join(line[6:] for line in block.split(b"\n") if line.startswith(b"data: "))
        if not data or self._encoder.done:
            return b""
        return b"".join(map(_spell, self._frames(json.loads(data))))

    def _frames(self, envelope: dict[str, Any]) -> Iterable[Frame | str]:
        match envelope["kind"]:
            case "event":
                return self._encoder.encode(envelope["type"], envelope["data"])
            case "gap" | "reset":
                gone = {name: envelope.get(name) for name in ("requested", "earliest")}
                return self._encoder.notice(f"holdfast.{envelope['kind']}", gone)
        return ()


def _spell(frame: Frame | str) -> bytes:
    text = frame if isinstance(frame, str) else _compact(frame)
    return f"data: {text}\n\n".encode()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_text(value: Any) -> str:
    """Return what the format can only carry as text: itself, or its JSON."""
    return value if isinstance(value, str) else _compact(value)


def parts_of(kind: str, data: Any) -> dict[str, Any] | None:
    """Return the parts of an event's data, or ``None`` where it is not of the kind it says.

    What ends a run ends it however it was written, also by another program with data of its own.
    """
    if isinstance(data, dict):
        return data
    return {"output": data, "error": data} if kind in _ENDS else None


def text_of(data: Any) -> str | None:
    """Return the text of a piece of an answer, or ``None`` where the event is something else."""
    text = data.get("text") if isinstance(data, dict) else None
    return text if isinstance(text, str) else None


def error_text(data: dict[str, Any]) -> tuple[str, str]:
    """Return the message and the class in the data of an event that tells of an error."""
    error = data.get("error")
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"]), str(error.get("type") or "Error")
    return as_text(error) if error else "it failed", "Error"


def _from_the_beginning(scope: Scope) -> Scope:
    """The request as it would ask for all events, each in an envelope."""
    headers = [each for each in scope["headers"] if each[0].lower() != b"last-event-id"]
    return {**scope, "headers": headers, "query_string": b"envelope=1"}


async def _nothing() -> AsyncIterator[Any]:
    """What a run would be made of that was there a moment ago."""
    return
    yield
