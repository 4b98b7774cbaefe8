"""An endpoint's answer that outlives its request: a run, begun or attached to, as an event stream.

It decides whose the run is; how a run is served is the sub-app's own code.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from holdfast.errors import CorruptData, InvalidEvent, RedisUnavailable, RunExpired, RunNotYours
from holdfast.streams import problems, shutdown
from holdfast.streams.access import ALLOWED, FORBIDDEN, owner_names
from holdfast.streams.doors import sse
from holdfast.streams.doors.asking import position_of
from holdfast.streams.doors.service import ask
from holdfast.streams.event import check_owner, check_run_id
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.publishing.runs import Beginning, close_runs, store_of
from holdfast.streams.publishing.sources import check_source, discard
from holdfast.streams.select import close_hubs, hub_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import EllipsisType

    from starlette.background import BackgroundTask
    from starlette.types import Message, Receive, Scope, Send

    from holdfast.runtime import Runtime
    from holdfast.settings import Settings
    from holdfast.streams.access import Verdict
    from holdfast.streams.fanout.hub import Hub
    from holdfast.streams.publishing.sources import Source
    from holdfast.streams.store import EventStore

_OURS = {b"content-length", b"content-type", b"cache-control"}


class RunResponse(Response):
    """Begin a run, or attach to it, and stream it as Server-Sent Events.

    ``return RunResponse(run_id, source)`` in place of ``StreamingResponse(source)`` makes an
    endpoint resumable: the run goes on when the client leaves, and the same request again
    continues after its ``Last-Event-ID`` (or ``?last_id=``). The source is used only where this
    begins the run, and closed otherwise.

    Args:
        run_id: the run, of which the client asks for the same each time.
        source: as for :func:`~holdfast.start_run`.
        owner: whose run it is, ``user:<id>`` or ``session:<id_hash>``, or ``None`` for nobody's.
            Default: ``request.session.owner`` where holdfast's session middleware is around.
        media_type: of the text that *source* yields; the answer is an event stream in any case.
        headers: more headers of the answer.
        background: runs after the answer.
        store: where to publish. Default: the process's own store.
        settings: the configuration of that default. Default: the environment.

    It answers 403 ``RUN_NOT_YOURS`` where the run has another owner, 410 ``RUN_EXPIRED`` where it
    is no longer kept, 204 where nothing can follow. While Redis is away the answer is held, and the
    run begins when it is back.

    Raises:
        InvalidEvent: the owner cannot exist. A run id that cannot exist is answered 400.
        TypeError: no run can be made of *source*.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        run_id: str,
        source: Source,
        *,
        owner: str | EllipsisType | None = ...,
        media_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
        store: EventStore | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(headers=headers, background=background)
        check_source(source)
        self.run_id = run_id
        self._owner = owner if owner is ... else check_owner(owner)
        self._source = source
        self._text = media_type
        self._store = store
        self._settings = settings
        self._begun = self._used = False
        self._beginning: Beginning | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        send = self._with_headers(send)
        try:
            answer = await self._serve(Request(scope, receive), send)
        except RedisUnavailable:
            answer = problems.UNAVAILABLE.response()
        except CorruptData:
            answer = problems.CORRUPT.response()
        finally:
            if not self._used:
                await discard(self._source)
        if answer is not None:
            await answer(scope, receive, send)
        if self.background is not None:
            await self.background()

    async def _serve(self, request: Request, send: Send) -> Response | None:
        """Return the answer, or ``None`` where it has been streamed."""
        from holdfast.runtime import runtime

        chosen = runtime(self._settings)
        store = self._store or store_of(chosen)
        position = position_of(request)
        if position is None:
            return problems.INVALID_ID.response()
        if request.method == "HEAD":
            # What a GET would begin is not there yet.
            return Response(headers=sse.HEADERS)
        hub = serving_hub(store, chosen)
        settings = chosen.settings
        if hub.stopping or len(hub.subscribers) >= settings.stream_max_subscribers:
            return sse.come_back(max(settings.stream_retry * 5, 10))
        permit = partial(self._begin, store, request)
        terms = sse.Terms(
            wait=0.0,
            heartbeat=settings.stream_heartbeat,
            retry=settings.stream_retry,
            envelope=request.query_params.get("envelope") == "1",
        )
        try:
            check_run_id(self.run_id)
        except InvalidEvent as error:
            return problems.INVALID_RUN_ID.response(str(error))
        # Joined before it begins: of a run on Pub/Sub nothing could be read afterwards.
        async with Subscription(hub, self.run_id, position) as subscription:
            verdict = await ask(permit)
            if verdict is not None and verdict.status != 200:
                return problems.RUN_NOT_YOURS.response()
            await sse.serve(
                *(hub, subscription, position, terms, request.scope, request.receive, send),
                permit=None if verdict else permit,
            )
        return None

    async def _begin(self, store: EventStore, request: Request) -> Verdict:
        """Begin or attach, once; what is over is told by how it is served."""
        if self._begun:
            return ALLOWED
        if self._beginning is None:
            names = owner_names(request) if self._owner is ... else (self._owner,)
            self._beginning = Beginning(
                *(store, self.run_id, self._source),
                owner=names[0] if names else None,
                also=[name for name in names if name],
                media_type=self._text,
            )
        # Where the client leaves in between, the run is begun all the same and has the source.
        self._used = True
        try:
            await self._beginning.run()
        except Exception as error:
            self._used = False
            if isinstance(error, RunNotYours):
                return FORBIDDEN
            if not isinstance(error, RunExpired):
                raise
        self._begun = True
        return ALLOWED

    def _with_headers(self, send: Send) -> Send:
        own = [header for header in self.raw_headers if header[0] not in _OURS]

        async def send_all(message: Message) -> None:
            if own and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        return send_all


def serving_hub(store: EventStore, chosen: Runtime) -> Hub:
    """Return the hub of the running event loop, told of signals and closed with *chosen*."""

    async def close() -> None:
        await close_runs(store)
        await close_hubs(store)

    # Once for each store: an app may publish to several.
    chosen.once(("hubs", id(store)), lambda: chosen.on_close(close))
    hub = hub_of(store)
    if chosen.settings.stream_handle_signals:
        shutdown.watch(hub)
    return hub
