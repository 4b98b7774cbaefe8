"""The HTTP door of the sub-app: from a request to the operation it names, past all checks.

Only the order of the checks lives here; each check and each answer has a module of its own.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from holdfast.errors import CorruptData, InvalidEvent, RedisReplyError, RedisUnavailable
from holdfast.health import liveness
from holdfast.streams import problems
from holdfast.streams.access import PolicyError
from holdfast.streams.documents import assets, reference
from holdfast.streams.doors import many_sse, paths, publishing, rest, sse
from holdfast.streams.doors.asking import form_of, position_of, wait_of
from holdfast.streams.doors.service import ask
from holdfast.streams.fanout.subscription import Subscription
from holdfast.streams.publishing.runs import stop_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from holdfast.streams.access import Verdict
    from holdfast.streams.doors.asking import Form
    from holdfast.streams.doors.service import Service

log = logging.getLogger("holdfast.streams")


def http_door(service: Service, *, websocket: problems.Problem = problems.NOT_FOUND) -> ASGIApp:
    """Return what serves the HTTP scopes of one sub-app.

    Args:
        service: the sub-app.
        websocket: what is said at the addresses of WebSockets to who asks by HTTP.
    """
    return _with_cors(_HttpDoor(service, websocket), service.settings.stream_allowed_origins)


class _HttpDoor:
    def __init__(self, service: Service, websocket: problems.Problem) -> None:
        self._service = service
        self._websocket = websocket
        self._settings = service.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Neither the request nor the answer gets a name: it would be kept while a stream lasts.
            await (await self._answer(Request(scope, receive), send))(scope, receive, send)
        except ClientDisconnect:
            pass
        except InvalidEvent as error:
            await problems.INVALID_RUN_ID.response(str(error))(scope, receive, send)
        except RedisUnavailable:
            await problems.UNAVAILABLE.response()(scope, receive, send)
        except PolicyError:
            await problems.ACCESS_FAILED.response()(scope, receive, send)
        except (CorruptData, RedisReplyError) as error:
            log.warning("%s", error)
            await problems.CORRUPT.response()(scope, receive, send)

    async def _answer(self, request: Request, send: Send) -> ASGIApp:
        """Return what answers.

        A stream begins when all this is over: what was needed to decide is not kept while it lasts.
        """
        self._service.conceal(request)
        target = paths.find(request.scope)
        if target is None:
            return problems.NOT_FOUND.response()
        if target.operation in {"websocket", "many_websocket"}:
            return self._websocket.response()
        if request.method not in target.methods or request.method == "OPTIONS":
            return _methods(target, request)
        return await self._operate(target, request, send) or _answered

    async def _operate(self, target: paths.Target, request: Request, send: Send) -> ASGIApp | None:
        """Return what answers, or ``None`` where that has been done."""
        about = await self._about(target, request)
        if about is not None:
            return about
        if not await self._service.may_serve():
            return problems.UNAVAILABLE.response()
        if target.operation == "stop":
            return await self._stop(target.run_id, request)
        if request.method == "POST":
            return await self._publish(target.run_id, request)
        if target.operation == "many_stream":
            return await many_sse.serve(self._service, request, send)
        return await self._read(target, request)

    async def _about(self, target: paths.Target, request: Request) -> Response | None:
        """Answer what is about the app and no run, and open to everybody."""
        if target.operation == "livez":
            return _health(*liveness())
        if target.operation == "readyz":
            return _health(*await self._service.readiness())
        if target.operation in assets.TYPES:
            return assets.serve(target.operation, request)
        if target.operation in reference.TYPES:
            return reference.serve(target.operation, self._settings, request)
        return None

    async def _read(self, target: paths.Target, request: Request) -> ASGIApp:
        """Answer either address of a run's events in the form that is asked for."""
        accept = ",".join(request.headers.getlist("accept"))
        usual: Form = "text/event-stream" if target.operation == "stream" else "application/json"
        if form_of(accept, usual) == "application/json":
            answer: ASGIApp = await self._history(target.run_id, request)
        else:
            answer = await self._stream(target.run_id, request)
        if isinstance(answer, Response):
            answer.headers["vary"] = "Accept"
        return answer

    async def _publish(self, run_id: str, request: Request) -> Response:
        verdict = await self._service.policy(request, run_id, "publish")
        if verdict.status != 200:
            return self._service.denied(verdict, request).response()
        return await publishing.publish(self._service.store, run_id, request)

    async def _stop(self, run_id: str, request: Request) -> Response:
        verdict = await self._service.policy(request, run_id, "stop")
        if verdict.status != 200:
            return self._service.denied(verdict, request).response()
        answer = await stop_run(self._service.store, run_id)
        if answer != "requested":
            return (problems.RUN_ENDED if answer == "ended" else problems.RUN_EXPIRED).response()
        return Response(status_code=202, headers=problems.PRIVATE_HEADERS)

    async def _history(self, run_id: str, request: Request) -> Response:
        verdict = await self._service.policy(request, run_id, "read")
        if verdict.status != 200:
            return self._service.denied(verdict, request).response()
        query = rest.parse(request.query_params)
        if isinstance(query, problems.Problem):
            return query.response()
        return await rest.serve(self._service.store, run_id, query)

    async def _stream(self, run_id: str, request: Request) -> ASGIApp:
        permit = self._service.permit(request, run_id, "read")
        verdict = await ask(permit)
        refusal = None
        if verdict is not None and verdict.status != 200:
            refusal = partial(self._denied, verdict, request)
            if not verdict.waits or request.method == "HEAD":
                return refusal()
        position = position_of(request)
        if position is None:
            return problems.INVALID_ID.response()
        wait = wait_of(request, self._settings.stream_wait, verdict)
        if wait is None:
            return problems.INVALID_WAIT.response()
        if refusal is not None and not wait:
            return refusal()
        if request.method == "HEAD":
            decided = verdict is not None
            return await sse.head(self._service.store, run_id, position, decided=decided)
        hub = self._service.hub()
        if self._service.is_full(hub):
            return sse.come_back(max(self._settings.stream_retry * 5, 10))
        terms = sse.Terms(
            wait=wait,
            heartbeat=self._settings.stream_heartbeat,
            retry=self._settings.stream_retry,
            until=verdict.until if verdict else None,
            envelope=request.query_params.get("envelope") == "1",
        )
        again = permit if refusal or not verdict else None
        subscription = Subscription(hub, run_id, position)
        return partial(sse.serve, hub, subscription, position, terms, permit=again, refusal=refusal)

    def _denied(self, verdict: Verdict, request: Request) -> Response:
        answer = self._service.denied(verdict, request).response()
        answer.headers["vary"] = "Accept"
        return answer


async def _answered(scope: Scope, receive: Receive, send: Send) -> None:
    """What is left to say where all has been said."""


def _with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Let pages of *origins* in; ``*`` never with credentials (Fetch standard, CORS protocol)."""
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


def _methods(target: paths.Target, request: Request) -> Response:
    """Say which methods the address takes: to who asks, and to who has tried another."""
    if request.method == "OPTIONS":
        answer = Response(status_code=204, headers=problems.PRIVATE_HEADERS)
    else:
        answer = problems.METHOD_NOT_ALLOWED.response()
    answer.headers["allow"] = ", ".join(target.methods)
    return answer


def _health(status: int, body: Mapping[str, Any]) -> Response:
    return JSONResponse(body, status, headers={"cache-control": "no-store"})
