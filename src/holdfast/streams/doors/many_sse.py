"""Many runs as one event stream (WHATWG HTML 9.2): each event with an id that resumes them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from holdfast.streams import frames, problems
from holdfast.streams.access import NOT_YET
from holdfast.streams.doors import sse
from holdfast.streams.doors.many import Many
from holdfast.streams.doors.many_asking import asked, granted, nothing_follows
from holdfast.streams.doors.told import failed
from holdfast.streams.fanout.pulse import Pulse, listening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from starlette.requests import Request
    from starlette.types import Message, Send

    from holdfast.streams.doors.many_asking import Asked, Granted
    from holdfast.streams.doors.service import Service
    from holdfast.streams.doors.told import Told


async def serve(service: Service, request: Request, send: Send) -> Response | None:
    """Answer one request for the stream of many runs; return the answer if it is none.

    Raises:
        HoldfastError: what is stored cannot be read, and nothing else is to be sent.
    """
    ask = asked(service, request)
    if isinstance(ask, problems.Problem):
        return ask.response()
    if not ask.runs:
        return problems.NO_RUN.response()
    grant = await granted(service, ask)
    if isinstance(grant, problems.Problem):
        return grant.response()
    hub, settings = service.hub(), service.settings
    # Of what it may not be allowed to read, a client is not told that it has ended.
    decided = all(each.permit is None for each in grant.entrances.values())
    if decided and await nothing_follows(service.store, ask.composite, grant.entrances):
        return Response(status_code=204, headers=problems.PRIVATE_HEADERS)
    if request.method == "HEAD":
        return sse.opened()
    if service.is_full(hub, 1 + len(grant.entrances)):
        return sse.come_back(max(settings.stream_retry * 5, 10))
    sse.leave_alone(request.scope)
    return await _stream(service, request, ask, grant, send)


async def _stream(
    service: Service, request: Request, ask: Asked, grant: Granted, send: Send
) -> Response | None:
    hub, settings = service.hub(), service.settings
    terms = sse.Terms(
        wait=ask.wait,
        heartbeat=settings.stream_heartbeat,
        retry=settings.stream_retry,
        envelope=request.query_params.get("envelope") == "1",
    )
    async with Many(hub, ask.composite) as many, listening(request.receive, many):
        done = await _Sender(many, terms, send).run(grant) or many.left
    if done:
        return None
    if hub.stopping or many.unknowable:
        return sse.come_back(terms.retry)
    # Each was refused alike, and nobody has begun one of them for this reader.
    return service.denied(NOT_YET, request).response()


class _Sender:
    """The sender of one open stream."""

    def __init__(self, many: Many, terms: sse.Terms, send: Send) -> None:
        self._many = many
        self._terms = terms
        self._send = send
        self._pulse = Pulse(many.rounds, many, terms.heartbeat)
        self._begun = False
        # What is told of runs that may not be read, while nobody has said that any may.
        self._refused: list[Told] = []

    async def run(self, grant: Granted) -> bool:
        """Send what there is to the end; False where no run may be read, and nothing was sent."""
        many = self._many
        self._refused = [failed(run_id, code) for run_id, code in grant.refused.items()]
        try:
            if not grant.none_yet:
                await self._begin()
            if not many.over:
                await self._tell(await many.add(grant.entrances))
            while len(many) and not (many.over or many.unknowable):
                await self._tell(await many.take())
                if len(many) and not many.over:
                    await many.wait()
                    await self._beat()
        finally:
            self._pulse.cancel()
        if self._begun and not many.left:
            await self._write(b"", more=False)
        return self._begun

    async def _begin(self) -> None:
        self._begun = True
        await self._deliver(sse.start())
        await self._write(frames.retry(sse.retry_ms(self._terms.retry)))
        await self._tell(self._refused)

    async def _tell(self, told: Sequence[Told]) -> None:
        if not self._begun:
            self._refused += told
            if self._many.granted or self._many.away or not all(map(_is_refusal, told)):
                await self._begin()
            return
        body = b"".join(each.event_source(envelope=self._terms.envelope) for each in told)
        if body and not self._many.left:
            await self._write(body)

    async def _beat(self) -> None:
        if self._begun and self._pulse.due and not self._many.over:
            await self._write(frames.comment("waiting" if self._many.held else ""))

    def _write(self, body: bytes, *, more: bool = True) -> Awaitable[None]:
        return self._deliver({"type": "http.response.body", "body": body, "more_body": more})

    def _deliver(self, message: Message) -> Awaitable[None]:
        return self._pulse.watch(self._send(message))


def _is_refusal(told: Told) -> bool:
    return any(("code", each.code) in told.fields for each in problems.BY_VERDICT.values())
