"""What a request for many runs asks for, and which of them it is granted.

The same for Server-Sent Events and for a WebSocket; each door says it in its protocol.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from holdfast.errors import InvalidEvent
from holdfast.streams import problems
from holdfast.streams.composite import GONE, MAX_RUNS, Composite, parse
from holdfast.streams.doors.asking import wait_of
from holdfast.streams.doors.grants import Grants, worse
from holdfast.streams.doors.lane import Entrance
from holdfast.streams.doors.opening import Opening, decide, look
from holdfast.streams.doors.service import ask
from holdfast.streams.event import check_run_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import HTTPConnection

    from holdfast.streams.access import Verdict
    from holdfast.streams.cursor import Position
    from holdfast.streams.doors.service import Service
    from holdfast.streams.store import EventStore


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for many runs.

    Attributes:
        runs: each named once.
        composite: where to begin.
        wait: seconds to wait for a run that nobody has started.
        grants: what it may read.
        head: nothing is waited for, because only the head of the answer is wanted.
    """

    runs: tuple[str, ...]
    composite: Composite
    wait: float
    grants: Grants
    head: bool = False

    def entrance(
        self, run_id: str, verdict: Verdict | None, position: Position, token: str | None = None
    ) -> Entrance:
        """Return how *run_id* is come in to at *position*.

        Args:
            verdict: ``None`` where it cannot be decided yet.
            token: asked again then, in place of what the connection brought.
        """
        # Who was told already that the run is not there comes back for the others.
        wait = 0.0 if self.composite.place(run_id) is GONE else self.wait
        if verdict is not None and verdict.status == 200:
            return Entrance(position, wait, verdict.until)
        permit = partial(self.grants.verdict, run_id, token)
        return Entrance(position, wait, permit=permit, refused=verdict is not None)

    def refuses(self, run_id: str, verdict: Verdict) -> bool:
        """Whether *run_id* may not be read, and that is to be told now.

        Who may be the owner of a run that has not begun is told when it has been waited for, once.
        """
        if verdict.status == 200:
            return False
        told = self.head or self.composite.place(run_id) is GONE
        return told or not (verdict.waits and self.wait > 0)


@dataclass(frozen=True, slots=True)
class Granted:
    """What may be read of what was asked for.

    Attributes:
        entrances: of each run that may be read, of which nobody can say yet, or of which it is
            said when it has been waited for.
        refused: the code for each that may not.
    """

    entrances: Mapping[str, Entrance]
    refused: Mapping[str, str]

    @property
    def none_yet(self) -> bool:
        """Whether each has been refused so far."""
        return all(each.refused for each in self.entrances.values())


def asked(service: Service, connection: HTTPConnection) -> Asked | problems.Problem:
    """Read a request, or return what is wrong with it."""
    query = connection.query_params
    runs = tuple(query.getlist("run"))
    if len(runs) > MAX_RUNS:
        return problems.TOO_MANY_RUNS
    if len(set(runs)) != len(runs):
        return problems.REPEATED_RUN
    try:
        for run_id in runs:
            check_run_id(run_id)
    except InvalidEvent:
        return problems.INVALID_RUN_ID
    header = connection.headers.get("last-event-id")
    composite = parse(query.get("last_id") if header is None else header)
    if composite is None:
        return problems.INVALID_ID
    wait = wait_of(connection, service.settings.stream_wait, None)
    if wait is None:
        return problems.INVALID_WAIT
    grants = Grants(connection, lambda each, run_id: service.policy(each, run_id, "read"))
    head = connection.scope.get("method") == "HEAD"
    if grants.too_many:
        return problems.TOO_MANY_TOKENS
    return Asked(runs, composite, wait, grants, head)


async def granted(service: Service, request: Asked) -> Granted | problems.Problem:
    """Judge each run of *request*; where none may be read, return why."""
    entrances: dict[str, Entrance] = {}
    refused: dict[str, str] = {}
    last: Verdict | None = None
    for run_id in request.runs:
        verdict = await ask(partial(request.grants.verdict, run_id))
        if verdict is not None and request.refuses(run_id, verdict):
            refused[run_id] = problems.BY_VERDICT[verdict.status].code
            last = verdict if last is None else worse(last, verdict)
        else:
            position = request.composite.position(run_id)
            entrances[run_id] = request.entrance(run_id, verdict, position)
        # A hundred signatures take some milliseconds, in which others want to be served.
        await asyncio.sleep(0)
    if last is not None:
        if not entrances:
            last = await request.grants.refusal(request.runs[0], last)
        problem = service.denied(last, request.grants.connection)
        if not entrances:
            return problem
    return Granted(entrances, refused)


async def nothing_follows(store: EventStore, composite: Composite, runs: Iterable[str]) -> bool:
    """Whether *composite* is at the end of every one of *runs*.

    Raises:
        HoldfastError: it is at the end of all but some whose data cannot be read.
    """
    ends = await asyncio.gather(
        *(_at_end(store, composite, run_id) for run_id in runs), return_exceptions=True
    )
    broken = [each for each in ends if isinstance(each, BaseException)]
    if any(end is False for end in ends):
        return False
    if broken:
        raise broken[0]
    return True


async def _at_end(store: EventStore, composite: Composite, run_id: str) -> bool:
    info = await look(store, run_id)
    if info is not None and composite.place(run_id) is GONE:
        return info.status in {"absent", "expired"}
    return decide(info, composite.position(run_id)) is Opening.NOTHING_FOLLOWS
