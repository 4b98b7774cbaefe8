"""Following runs from Python, over Server-Sent Events: what a browser does, as an iterator.

What to ask for and what an answer means is decided in one place without I/O; the asynchronous and
the synchronous iterator only carry bytes. Nothing here publishes, and nothing needs Redis.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import inspect
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote

from holdfast.errors import StreamRefused
from holdfast.jitter import between
from holdfast.streams.event import TERMINAL_TYPES, StreamEvent, moment, parse_id

try:
    import httpx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'holdfast.client needs httpx: pip install "holdfast[client]"', name="httpx"
    ) from error

__all__ = [
    "End",
    "Failed",
    "Gap",
    "Item",
    "Reset",
    "StreamRefused",
    "follow",
    "follow_sync",
    "stop",
    "stop_sync",
]

FIRST_DELAY = 0.5
STEADY = 5.0
"""A connection that lived for so many seconds was no failure."""

CONNECT_TIMEOUT = 10.0
TRY_AGAIN = {408, 425, 429}
# What networks and servers do to a connection. An address that is none is not among it: the next
# try would find it as it is.
_LOST = (httpx.TimeoutException, httpx.NetworkError, httpx.ProtocolError, httpx.ProxyError)

_LINE_BREAK = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a CR at the very end may be half of a line break


@dataclass(frozen=True, slots=True)
class Gap:
    """Events after *requested* are no longer kept; the rest follows, from *earliest* on."""

    run_id: str
    requested: str | None
    earliest: str | None


@dataclass(frozen=True, slots=True)
class Reset:
    """The position is not of this run as it is now.

    Drop what was taken: the run follows from its start.
    """

    run_id: str
    requested: str | None
    earliest: str | None


@dataclass(frozen=True, slots=True)
class End:
    """The run is over and every event was handed over. It is the last item of that run."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """One of several runs cannot be read (any more); the others go on. Its last item.

    Attributes:
        code: why, such as ``RUN_NOT_FOUND``, ``RUN_EXPIRED``, ``UNAUTHORIZED`` or ``FORBIDDEN``.
    """

    run_id: str
    code: str


Item = StreamEvent | Gap | Reset | End | Failed
Token = str | Callable[[bool], str | None]
AsyncToken = str | Callable[[bool], str | Awaitable[str | None] | None]


async def follow(
    url: str,
    *,
    runs: Collection[str] = (),
    last_id: str = "",
    token: AsyncToken | None = None,
    silence: float = 40.0,
    max_delay: float = 30.0,
    http: httpx.AsyncClient | None = None,
) -> AsyncGenerator[Item, None]:
    """Follow runs to their end: every event once and in order, whatever happens to the network.

    Args:
        url: the run's stream, ``…/runs/{run_id}/events/stream``; with *runs* that of many,
            ``…/events/stream``; or any address that answers GET with an event stream. A ``token``
            in it is sent as a header instead, if it is the only one.
        runs: follow these over one connection, at most 100. Each item says of which it is.
        last_id: begin after this event; of many runs ``$``, or a position in all of them, as it
            is the ``id:`` of an event in their stream. Default: the start.
        token: the token, or a function (it may be asynchronous) that returns one. The function is
            called before the first connection with ``False``, and with ``True`` after a token was
            refused or has expired. What it raises ends the iteration.
        silence: seconds without a byte, heartbeats included, after which a connection is given up.
        max_delay: the longest delay between two tries, in seconds. The first is at most 0.5.
        http: the client to use, with its cookies, certificates and proxies. Default: a new one.

    Yields:
        :class:`StreamEvent`, :class:`Gap` and :class:`Reset` as they come, and one :class:`End`
        for each run; of many, :class:`Failed` for one that cannot be read.

    Raises:
        StreamRefused: the server will not let the run be read, or none of them: no such run,
            expired, no right.
        ValueError: *last_id* or the token is more than one line of ASCII, or has white space at an
            end.
        httpx.UnsupportedProtocol: *url* begins neither with ``http://`` nor with ``https://``.
    """
    reader = _Reader(url, runs, last_id, max_delay, renewable=callable(token))
    async with contextlib.AsyncExitStack() as stack:
        if http is None:
            http = await stack.enter_async_context(httpx.AsyncClient())
        while True:
            if reader.wants_token:
                given = token(reader.refused) if callable(token) else token
                reader.use(await given if inspect.isawaitable(given) else given)
            with contextlib.suppress(*_LOST):
                async with http.stream("GET", **reader.request(silence)) as answer:
                    if not reader.is_stream(answer):
                        reader.judge(answer, await answer.aread())
                    else:
                        async for chunk in answer.aiter_bytes():
                            for item in reader.feed(chunk):
                                yield item
                            if reader.over or reader.wants_token:
                                break
                        reader.closed()
            for item in reader.left():
                yield item
            if reader.over:
                return
            await asyncio.sleep(reader.delay())


def follow_sync(
    url: str,
    *,
    runs: Collection[str] = (),
    last_id: str = "",
    token: Token | None = None,
    silence: float = 40.0,
    max_delay: float = 30.0,
    http: httpx.Client | None = None,
) -> Generator[Item, None, None]:
    """Follow runs as :func:`follow` does, from a thread without an event loop."""
    reader = _Reader(url, runs, last_id, max_delay, renewable=callable(token))
    with contextlib.ExitStack() as stack:
        if http is None:
            http = stack.enter_context(httpx.Client())
        while True:
            if reader.wants_token:
                reader.use(token(reader.refused) if callable(token) else token)
            with (
                contextlib.suppress(*_LOST),
                http.stream("GET", **reader.request(silence)) as answer,
            ):
                if not reader.is_stream(answer):
                    reader.judge(answer, answer.read())
                else:
                    for chunk in answer.iter_bytes():
                        yield from reader.feed(chunk)
                        if reader.over or reader.wants_token:
                            break
                    reader.closed()
            yield from reader.left()
            if reader.over:
                return
            time.sleep(reader.delay())


async def stop(
    url: str,
    run_id: str | None = None,
    *,
    token: str | None = None,
    http: httpx.AsyncClient | None = None,
) -> bool:
    """Ask a run to stop, which its publisher learns at once; the run then ends by itself.

    Args:
        url: the address of the run's stream; with *run_id* that of many.
        run_id: the run, where the address names none.
        token: one that grants the action ``stop``. Default: the one in *url*.
        http: the client to use. Default: a new one.

    Returns:
        True where it was asked, False where the run had ended before.

    Raises:
        StreamRefused: the server will not let the run be stopped, or cannot say so now.
        httpx.TransportError: the server cannot be reached.
    """
    request = _stop_request(url, run_id, token)
    if http is not None:
        return _was_stopped(await http.request(**request))
    async with httpx.AsyncClient() as own:
        return _was_stopped(await own.request(**request))


def stop_sync(
    url: str,
    run_id: str | None = None,
    *,
    token: str | None = None,
    http: httpx.Client | None = None,
) -> bool:
    """Ask a run to stop as :func:`stop` does, from a thread without an event loop."""
    request = _stop_request(url, run_id, token)
    if http is not None:
        return _was_stopped(http.request(**request))
    with httpx.Client() as own:
        return _was_stopped(own.request(**request))


def _stop_request(url: str, run_id: str | None, token: str | None) -> dict[str, Any]:
    address = httpx.URL(url)
    where = "stop" if run_id is None else f"runs/{quote(run_id, safe='')}/stop"
    # The raw path: a run id in it stays encoded as it is.
    path = address.raw_path.partition(b"?")[0].decode().removesuffix("events/stream") + where
    token = token or address.params.get("token")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return {
        "method": "POST",
        "url": address.copy_with(raw_path=path.encode()),
        "headers": headers,
        "timeout": CONNECT_TIMEOUT,
    }


def _was_stopped(answer: httpx.Response) -> bool:
    if answer.status_code not in {202, 409}:
        raise _refusal(answer.status_code, answer.content)
    return answer.status_code == 202


class _Reader:
    """What is known between two connections, and every decision: no I/O."""

    def __init__(
        self,
        url: str,
        runs: Collection[str],
        last_id: str,
        max_delay: float,
        *,
        renewable: bool,
    ) -> None:
        address = httpx.URL(url)
        for run_id in runs:
            address = address.copy_add_param("run", run_id)
        in_query = address.params.get_list("token")
        if len(in_query) == 1:  # a token in a URL ends up in logs
            address = address.copy_remove_param("token")
        self._enveloped = address.path.endswith("/events/stream")
        if self._enveloped:
            address = address.copy_set_param("envelope", "1")
        named = re.search(r"/runs/([^/]+)/events/stream$", address.path)
        # The runs that are not over yet, where there are several; in the order of the address.
        self._open = dict.fromkeys(address.params.get_list("run")) if not named else {}
        self._is_of_many = bool(self._open)
        # When a token was last refused for a run.
        self._doubted: dict[str, float] = {}
        self._url = address
        self._run_id: str = named[1] if named else ""
        self._last_id = _one_line(last_id, "last_id")
        self._max_delay = max_delay
        self._renewable = renewable
        self._default_token = in_query[0] if len(in_query) == 1 else None
        self._token = ""
        self._parser = _Parser()
        self._failures = 0
        self._begun = 0.0
        self._pause = 0.0
        self._at_once = False
        self.wants_token = True
        self.refused = False
        self.over = False
        self._ended = False

    def use(self, token: str | None) -> None:
        """Send *token* from now on."""
        self._token = _one_line(token or self._default_token or "", "the token")
        self.wants_token = False

    def request(self, silence: float) -> dict[str, Any]:
        """Return the next request, after all that was handed over."""
        self._begun = time.monotonic()
        self._parser = _Parser()
        self._pause = 0.0
        headers: dict[str, str | bytes] = {"accept": "text/event-stream"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        if self._last_id:
            # An id of another server may hold any character; a browser sends it as UTF-8, without
            # white space around it (WHATWG HTML, "Last-Event-ID"; Fetch, "normalize").
            headers["last-event-id"] = self._last_id.strip(" \t").encode()
        timeout = httpx.Timeout(CONNECT_TIMEOUT, read=silence)
        return {"url": self._url, "headers": headers, "timeout": timeout}

    def is_stream(self, answer: httpx.Response) -> bool:
        """Whether there is something to feed; else :meth:`judge` the answer."""
        kind, _, _ = answer.headers.get("content-type", "").partition(";")
        if answer.status_code != 200 or kind.strip().lower() != "text/event-stream":
            return False
        self.refused = False
        return True

    def judge(self, answer: httpx.Response, body: bytes) -> None:
        """Note what an answer that is no stream means.

        Raises:
            StreamRefused: another try would be answered alike.
        """
        status = answer.status_code
        if status == 204:
            self._ended = True
        elif status in {401, 403} and self._renewable and not self.refused:
            self.refused = self.wants_token = self._at_once = True
        elif status >= 500 or status in TRY_AGAIN:
            after = answer.headers.get("retry-after", "")
            self._pause = float(after) if after.isdecimal() else 0.0
        else:
            raise _refusal(status, body)

    def feed(self, chunk: bytes) -> Iterator[Item]:
        """Return the items that *chunk* completes; none after the end."""
        for block in self._parser.feed(chunk):
            item = self._item(block)
            if item is not None:
                self._failures = 0
                yield item
            if self.wants_token:
                return
            if self._ended:
                yield from self.left()
                return

    def closed(self) -> None:
        """Note that the server itself closed the stream: it has said when to come back."""
        self._pause = self._parser.retry

    def left(self) -> Iterator[Item]:
        """Return the end, once, where it was reached; of many runs, of each that is left."""
        if self._ended and not self.over:
            self.over = True
            yield from map(End, self._open if self._is_of_many else [self._run_id])

    def delay(self) -> float:
        """Return the seconds to wait before the next try, jittered."""
        if self._at_once:
            self._at_once = False
            return 0.0
        if time.monotonic() - self._begun > STEADY:
            self._failures = 0
        backoff = min(self._max_delay, FIRST_DELAY * 2.0 ** min(self._failures, 30))
        self._failures += 1
        spread = between(0.5, 1)
        return max(self._pause, backoff * spread)

    def _item(self, block: _Block) -> Item | None:
        data = _decoded(block.data)
        if not self._enveloped and not block.type.startswith("holdfast."):
            frame = {"kind": "event", "id": block.id, "type": block.type, "data": data}
        else:
            frame = data if isinstance(data, dict) else {}
        run_id = frame.get("run_id") or self._run_id
        match frame.get("kind"):
            case "event":
                self._last_id = block.id or self._last_id
                self._ended = not self._is_of_many and frame["type"] in TERMINAL_TYPES
                self._doubted.pop(run_id, None)
                return self._event(frame)
            case "gap":
                return Gap(run_id, frame.get("requested"), frame.get("earliest"))
            case "reset":
                if not self._is_of_many:
                    self._last_id = ""
                return Reset(run_id, frame.get("requested"), frame.get("earliest"))
            case "end" | "error" | "denied" if run_id in self._open:
                return self._over(run_id, frame.get("code"), block.id)
        return None

    def _over(self, run_id: str, code: str | None, position: str) -> Item | None:
        """Note that one of several runs is over, unless another token may open it again."""
        last = self._doubted.get(run_id, -STEADY)
        if code == "UNAUTHORIZED" and self._renewable and time.monotonic() - last > STEADY:
            self._doubted[run_id] = time.monotonic()
            self.refused = self.wants_token = self._at_once = True
            return None
        self._last_id = position or self._last_id
        del self._open[run_id]
        self._ended = not self._open
        return End(run_id) if code is None else Failed(run_id, code)

    def _event(self, frame: dict[str, Any]) -> StreamEvent:
        created: str | None = frame.get("created_at")
        return StreamEvent(
            id=frame["id"],
            run_id=frame.get("run_id") or self._run_id,
            type=frame["type"],
            data=frame["data"],
            created_at=datetime.fromisoformat(created) if created else _created_at(frame["id"]),
        )


@dataclass(slots=True)
class _Block:
    """One dispatched event of a stream (WHATWG HTML 9.2.6)."""

    type: str
    data: str
    id: str


class _Parser:
    """Bytes of one connection in, whole events out, however they were cut."""

    def __init__(self) -> None:
        self.retry = 0.0
        self._rest = b""
        self._begun = False
        self._id = ""
        self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[_Block]:
        *lines, self._rest = _LINE_BREAK.split(self._rest + chunk)
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        for line in lines:
            if line:
                self._field(*line.decode("utf-8", "replace").partition(":"))
            else:
                if self._data:
                    yield _Block(self._type or "message", "\n".join(self._data), self._id)
                self._type, self._data = "", []

    def _field(self, name: str, _: str, value: str) -> None:
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._type = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdecimal():
                self.retry = int(value) / 1000


def _one_line(text: str, name: str) -> str:
    """Return *text*, which goes into a header; the error does not repeat it, it may be a secret."""
    if text.isascii() and text.isprintable() and text == text.strip():
        return text
    raise ValueError(f"{name} is one line of ASCII, with no space or line break around it")


def _refusal(status: int, body: bytes) -> StreamRefused:
    problem = _decoded(body.decode("utf-8", "replace"))
    if status == 200:
        return StreamRefused(status, "NOT_A_STREAM", "the answer is no event stream")
    if not isinstance(problem, dict):
        problem = {}
    return StreamRefused(status, problem.get("code"), problem.get("title"))


def _decoded(text: str) -> Any:
    """The JSON value; an event stream of somebody else may carry any text."""
    try:
        return cast("Any", json.loads(text))
    except (ValueError, RecursionError):
        return text


def _created_at(event_id: str) -> datetime:
    """The moment in the id of a stream that sends no frames; else now."""
    found = parse_id(event_id.partition("~")[0])
    return moment(found.ms) if found else datetime.now(UTC)
