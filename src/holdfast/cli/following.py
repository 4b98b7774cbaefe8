"""What `holdfast runs tail` follows runs with, but for one run at its store, which `runs` does.

Several runs at their store are what a browser gets over one connection, without the connection; an
address is followed by `holdfast.client`, whose troubles are told here.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import click
import httpx

from holdfast.client import End, Failed, Gap, Reset, follow
from holdfast.errors import InvalidEvent
from holdfast.streams.composite import MAX_RUNS, parse
from holdfast.streams.doors.lane import Entrance
from holdfast.streams.doors.many import Many
from holdfast.streams.event import check_run_id
from holdfast.streams.select import hub_of
from holdfast.streams.store import to_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from holdfast.client import Item
    from holdfast.streams.doors.told import Told
    from holdfast.streams.store import EventStore


async def from_store(
    store: EventStore, run_ids: Sequence[str], last_id: str
) -> AsyncGenerator[Item, None]:
    """Follow runs at their store; one that nobody has started is waited for.

    Raises:
        InvalidEvent: a run id or the position cannot exist, or there are too many runs.
    """
    composite = parse(last_id)
    if composite is None:
        raise InvalidEvent(f"{last_id!r} is no position of several runs")
    wanted = dict.fromkeys(map(check_run_id, run_ids))
    if len(wanted) > MAX_RUNS:
        raise InvalidEvent(f"at most {MAX_RUNS} runs are followed at once")
    async with Many(hub_of(store), composite) as many:
        entrances = {each: Entrance(composite.position(each), math.inf) for each in wanted}
        for told in await many.add(entrances):
            yield _item(told)
        while len(many):
            for told in await many.take():
                yield _item(told)
            if len(many):
                await many.wait()


async def from_address(
    url: str, last_id: str, token: str | None, tell: Callable[[str], None]
) -> AsyncGenerator[Item, None]:
    """Follow the stream at *url*; *tell* hears why nothing comes, and it is tried again.

    Raises:
        StreamRefused: the server will not let it be read.
        UsageError: the address, the position or the token cannot be sent.
    """
    async with TellingClient(tell) as http:
        following = follow(url, last_id=last_id, token=token, http=http)
        async with contextlib.aclosing(following) as items:
            try:
                async for item in items:
                    yield item
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
                raise click.UsageError(str(error)) from None


class TellingClient(httpx.AsyncClient):
    """Tells why a try came to nothing, and of the same reason in a row only once."""

    def __init__(self, tell: Callable[[str], None], **options: Any) -> None:
        super().__init__(**options)
        self._tell = tell
        self._told = ""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        where = f"{request.url.scheme}://{request.url.netloc.decode()}"
        try:
            answer = await super().send(request, **options)
        except httpx.UnsupportedProtocol:
            raise
        except httpx.TransportError as error:
            self._say(f"{where}: {str(error) or type(error).__name__}; trying again")
            raise
        failed = answer.status_code >= 500
        self._say(f"{where}: answered {answer.status_code}; trying again" if failed else "")
        return answer

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._told:
            self._tell(trouble)
        self._told = trouble


def named(runs: Sequence[str]) -> Sequence[str]:
    """Return the ids of what is followed: the address of several runs names them."""
    if len(runs) == 1 and "://" in runs[0]:
        with contextlib.suppress(ValueError):  # told where it is asked for
            return parse_qs(urlsplit(runs[0]).query).get("run") or runs
    return runs


def _item(told: Told) -> Item:
    run_id, fields = told.run_id or "", dict(told.fields)
    if told.frame is not None:
        return replace(to_event(run_id, told.frame.entry), id=told.id)
    if told.kind == "end":
        return End(run_id)
    if told.kind == "error":
        return Failed(run_id, fields["code"] or "")
    kind = Gap if told.kind == "gap" else Reset
    return kind(run_id, fields["requested"], fields["earliest"])
