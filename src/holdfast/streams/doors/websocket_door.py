"""The WebSocket door of the sub-app: the order of the checks before a handshake is accepted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket

from holdfast.errors import InvalidEvent
from holdfast.streams import problems
from holdfast.streams.access import PolicyError
from holdfast.streams.doors import many_websocket, paths, websocket
from holdfast.streams.doors.asking import position_of, wait_of
from holdfast.streams.doors.many_asking import asked, granted
from holdfast.streams.doors.service import ask
from holdfast.streams.origins import origin_allowed

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from holdfast.streams.doors.service import Service

log = logging.getLogger("holdfast.streams")


class WebSocketDoor:
    """Serves the WebSocket scopes of one sub-app."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        socket = WebSocket(scope, receive, send)
        self._service.conceal(socket)
        try:
            target = paths.find(scope)
        except InvalidEvent:
            await _refuse(socket, problems.INVALID_RUN_ID)
            return
        if target is None or target.operation not in {"websocket", "many_websocket"}:
            await _refuse(socket, problems.NOT_FOUND)
        elif not await self._service.may_serve():
            await _refuse(socket, problems.UNAVAILABLE)
        elif not self._origin_allowed(socket):
            await _refuse(socket, problems.FORBIDDEN)
        else:
            try:
                await self._serve(target, socket)
            except PolicyError:
                await _refuse(socket, problems.ACCESS_FAILED)

    async def _serve(self, target: paths.Target, socket: WebSocket) -> None:
        if target.operation == "websocket":
            await self._one_run(target.run_id, socket)
        else:
            await self._many_runs(socket)

    async def _one_run(self, run_id: str, socket: WebSocket) -> None:
        permit = self._service.permit(socket, run_id, "read")
        verdict = await ask(permit)
        position = position_of(socket)
        wait = wait_of(socket, self._settings.stream_wait, verdict)
        refused = verdict is not None and verdict.status != 200
        if verdict is not None and refused and not (verdict.waits and wait):
            await _refuse(socket, self._service.denied(verdict, socket))
            return
        if position is None or wait is None:
            await _refuse(
                socket, problems.INVALID_ID if position is None else problems.INVALID_WAIT
            )
            return
        hub = self._service.hub()
        if self._service.is_full(hub):
            await socket.accept()
            await socket.close(websocket.TRY_AGAIN)
            return
        await websocket.serve(
            *(hub, run_id, position, socket),
            wait=wait,
            until=verdict.until if verdict else None,
            permit=permit if refused or not verdict else None,
            refused=refused,
        )

    async def _many_runs(self, socket: WebSocket) -> None:
        request = asked(self._service, socket)
        if isinstance(request, problems.Problem):
            await _refuse(socket, request)
            return
        grant = await granted(self._service, request)
        if isinstance(grant, problems.Problem):
            await _refuse(socket, grant)
            return
        if self._service.is_full(self._service.hub(), 1 + len(grant.entrances)):
            await socket.accept()
            await socket.close(websocket.TRY_AGAIN)
            return
        await many_websocket.serve(self._service, request, grant, socket)

    def _origin_allowed(self, socket: WebSocket) -> bool:
        origin, host = socket.headers.get("origin"), socket.headers.get("host", "")
        allowed = origin_allowed(origin, host, self._settings.stream_allowed_origins)
        if not allowed:
            log.info(
                "a WebSocket was refused: its Origin is not in HOLDFAST_STREAM_ALLOWED_ORIGINS"
            )
        return allowed


async def _refuse(socket: WebSocket, problem: problems.Problem) -> None:
    """Refuse the handshake, with a body where the server can send one (ASGI's denial extension)."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(problem.response())
    else:
        await socket.close(websocket.POLICY)
