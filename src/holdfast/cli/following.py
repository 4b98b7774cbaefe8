"""Several runs followed at their store, as `holdfast runs tail` shows them.

What a browser gets over one connection, without the connection; one run alone is followed in
`runs`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from holdfast.client import End, Failed, Gap, Reset
from holdfast.errors import InvalidEvent
from holdfast.streams.composite import MAX_RUNS, parse
from holdfast.streams.doors.lane import Entrance
from holdfast.streams.doors.many import Many
from holdfast.streams.event import check_run_id
from holdfast.streams.select import hub_of
from holdfast.streams.store import to_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

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


def named(runs: Sequence[str]) -> Sequence[str]:
    """Return the ids of what is followed: the address of several runs names them."""
    if len(runs) == 1 and "://" in runs[0]:
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
