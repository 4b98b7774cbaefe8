"""The sub-app: from a request to the operation it names, past access and cross-origin rules.

Only the order of the checks lives here; each check and each answer has a module of its own.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from holdfast.errors import CorruptData, InvalidEvent, RedisReplyError, RedisUnavailable
from holdfast.health import liveness, readiness
from holdfast.startup import Requirement, StartError, kept_or_raised, pass_lifespan
from holdfast.streams import assets, paths, problems, rest, shutdown, sse, websocket
from holdfast.streams.access import Verdict, make_policy, origin_allowed
from holdfast.streams.cursor import Position, parse_position
from holdfast.streams.select import close_hubs, default_store, hub_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.runtime import Runtime
    from holdfast.settings import Settings
    from holdfast.streams.hub import Hub
    from holdfast.streams.opening import Permit
    from holdfast.streams.store import EventStore

log = logging.getLogger("holdfast.streams")

MAX_WAIT = 60.0


class EventStreamApp:
    """An ASGI app that serves the events of runs; mount it anywhere.

    ============================== =====================================================
    ``GET runs/{run_id}/events``        pages of history, as JSON
    ``GET runs/{run_id}/events/stream`` history, then live, as Server-Sent Events
    ``WS runs/{run_id}/events/ws``      the same over a WebSocket
    ``GET livez``, ``GET readyz``       health
    ``GET holdfast.js``                 the browser's client, and its ``holdfast.d.ts``
    ============================== =====================================================

    Args:
        settings: the configuration. Default: the environment.
        store: where the events are. Default: the process's own store.

    Raises:
        ConfigurationError: a variable cannot work. While an event loop runs the error is kept
            instead: requests are answered 503, and the log says why, once.
    """

    def __init__(
        self, *, settings: Settings | None = None, store: EventStore | None = None
    ) -> None:
        made = kept_or_raised(lambda: _Service(settings, store))
        if isinstance(made, StartError):
            made.tell()
        self._app: ASGIApp = made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        await self._app(scope, receive, send)


class _Service:
    """The app behind the door, once its configuration is known to work."""

    def __init__(self, settings: Settings | None, store: EventStore | None) -> None:
        from holdfast.runtime import runtime

        self.runtime: Runtime = runtime(settings)
        self.settings = self.runtime.settings
        self.store = store or default_store(self.runtime)
        self.policy = make_policy(self.settings, self.store)
        self.required = Requirement(self.runtime)
        self._http = _with_cors(self._serve_http, self.settings.stream_allowed_origins)
        self.runtime.on_close(lambda: close_hubs(self.store))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await pass_lifespan(_lifespan, self.runtime, scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(WebSocket(scope, receive, send))
        else:
            await self._http(scope, receive, send)

    def hub(self) -> Hub:
        """The hub of the running event loop, told of signals."""
        hub = hub_of(self.store)
        if self.settings.stream_handle_signals:
            shutdown.watch(hub)
        return hub

    # -- HTTP

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            target = paths.find(scope)
            if target is None or target.operation == "websocket":
                answer: Response | None = problems.NOT_FOUND.response()
            elif request.method not in {"GET", "HEAD"}:
                answer = problems.METHOD_NOT_ALLOWED.response()
                answer.headers["allow"] = "GET, HEAD"
            else:
                answer = await self._operate(target, request, send)
        except InvalidEvent as error:
            answer = problems.INVALID_RUN_ID.response(str(error))
        except RedisUnavailable:
            answer = problems.UNAVAILABLE.response()
        except (CorruptData, RedisReplyError) as error:
            log.warning("%s", error)
            answer = problems.CORRUPT.response()
        if answer is not None:
            await answer(scope, receive, send)

    async def _operate(self, target: paths.Target, request: Request, send: Send) -> Response | None:
        """Return the answer, or ``None`` where it has been streamed."""
        if target.operation == "livez":
            return _health(*liveness())
        if target.operation == "readyz":
            return _health(*await self._readiness())
        if target.operation in assets.TYPES:
            return assets.serve(target.operation, request)
        if not (self.required.met or await self.required.holds()):
            return problems.UNAVAILABLE.response()
        if target.operation == "stream":
            return await self._stream(target.run_id, request, send)
        verdict = await self.policy(request, target.run_id, "read")
        if verdict.status != 200:
            return _denied(verdict.status, self.settings.stream_access)
        query = rest.parse(request.query_params)
        if isinstance(query, problems.Problem):
            return query.response()
        return await rest.serve(self.store, target.run_id, query)

    async def _stream(self, run_id: str, request: Request, send: Send) -> Response | None:
        permit = self._permit(request, run_id)
        verdict = await _ask(permit)
        if verdict is not None and verdict.status != 200:
            return _denied(verdict.status, self.settings.stream_access)
        position = _position(request)
        if position is None:
            return problems.INVALID_ID.response()
        wait = _wait(request, self.settings.stream_wait, verdict)
        if wait is None:
            return problems.INVALID_WAIT.response()
        if request.method == "HEAD":
            return await sse.head(self.store, run_id, position, decided=verdict is not None)
        hub = self.hub()
        if len(hub.subscribers) >= self.settings.stream_max_subscribers:
            return sse.come_back(max(self.settings.stream_retry * 5, 10))
        terms = sse.Terms(
            wait=wait,
            heartbeat=self.settings.stream_heartbeat,
            retry=self.settings.stream_retry,
            until=verdict.until if verdict else None,
            envelope=request.query_params.get("envelope") == "1",
        )
        await sse.serve(
            *(hub, run_id, position, terms, request.scope, request.receive, send),
            permit=None if verdict else permit,
        )
        return None

    def _permit(self, connection: HTTPConnection, run_id: str) -> Permit:
        return lambda: self.policy(connection, run_id, "read")

    async def _readiness(self) -> tuple[int, dict[str, str | None]]:
        link = self.runtime.link
        if link is not None:
            await link.ready()
        return readiness(
            link.status if link else None,
            required=self.settings.redis_required,
            stopping=shutdown.stopping(),
        )

    # -- WebSocket

    async def _serve_websocket(self, socket: WebSocket) -> None:
        try:
            target = paths.find(socket.scope)
        except InvalidEvent:
            await _refuse(socket, problems.INVALID_RUN_ID)
            return
        if target is None or target.operation != "websocket":
            await _refuse(socket, problems.NOT_FOUND)
            return
        if not (self.required.met or await self.required.holds()):
            await _refuse(socket, problems.UNAVAILABLE)
            return
        permit = self._permit(socket, target.run_id)
        verdict = await self._verdict(socket, permit)
        if isinstance(verdict, problems.Problem):
            await _refuse(socket, verdict)
            return
        position = _position(socket)
        wait = _wait(socket, self.settings.stream_wait, verdict)
        if position is None or wait is None:
            await _refuse(
                socket, problems.INVALID_ID if position is None else problems.INVALID_WAIT
            )
            return
        hub = self.hub()
        if len(hub.subscribers) >= self.settings.stream_max_subscribers:
            await socket.accept()
            await socket.close(websocket.TRY_AGAIN)
            return
        await websocket.serve(
            *(hub, target.run_id, position, socket),
            wait=wait,
            until=verdict.until if verdict else None,
            permit=None if verdict else permit,
        )

    async def _verdict(
        self, socket: WebSocket, permit: Permit
    ) -> Verdict | problems.Problem | None:
        """Return the permission, why the handshake is refused, or ``None`` while nobody can say."""
        origin, host = socket.headers.get("origin"), socket.headers.get("host", "")
        if not origin_allowed(origin, host, self.settings.stream_allowed_origins):
            log.info(
                "a WebSocket was refused: its Origin is not in HOLDFAST_STREAM_ALLOWED_ORIGINS"
            )
            return problems.FORBIDDEN
        verdict = await _ask(permit)
        if verdict is not None and verdict.status != 200:
            _denied(verdict.status, self.settings.stream_access)
            return problems.BY_VERDICT[verdict.status]
        return verdict


def _with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Let pages of *origins* read; ``*`` never with credentials (Fetch standard, CORS protocol)."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Last-Event-ID", "Idempotency-Key", "Content-Type"],
        allow_credentials="*" not in origins,
        expose_headers=["Retry-After"],
    )


async def _ask(permit: Permit) -> Verdict | None:
    try:
        return await permit()
    except RedisUnavailable:
        return None


def _position(connection: HTTPConnection) -> Position | None:
    """A reconnect's header beats the query, where the browser still has the first position."""
    header = connection.headers.get("last-event-id")
    return parse_position(connection.query_params.get("last_id") if header is None else header)


def _wait(connection: HTTPConnection, default: float, verdict: Verdict | None) -> float | None:
    """Return how long to wait for a run to begin; never longer than the permission lasts."""
    text = connection.query_params.get("wait")
    try:
        seconds = float(text) if text else default
    except ValueError:
        return None
    if not seconds >= 0:
        return None
    until = verdict.until if verdict else None
    return min(seconds, MAX_WAIT, max(until - time.time(), 0) if until else MAX_WAIT)


def _denied(status: Literal[401, 403, 200], access: str) -> Response:
    # What to change is for whoever reads the log; whoever asks learns only that it is refused.
    log.info(
        "a reader was refused (%d): HOLDFAST_STREAM_ACCESS is %r%s",
        status,
        access,
        "; give the page a stream_token(run_id)" if access == "token" else "",
    )
    return problems.BY_VERDICT[status].response()


def _health(status: int, body: dict[str, str | None]) -> Response:
    return JSONResponse(body, status, headers={"cache-control": "no-store"})


async def _refuse(socket: WebSocket, problem: problems.Problem) -> None:
    """Refuse the handshake, with a body where the server can send one (ASGI's denial extension)."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(problem.response())
    else:
        await socket.close(websocket.POLICY)


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Served by itself, the app has nothing to start; at the end it closes what it used."""
    from holdfast.runtime import aclose

    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await aclose()
    await send({"type": "lifespan.shutdown.complete"})
