"""One run over a WebSocket: the same events as SSE, as JSON frames, and a close code at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from holdfast.errors import HoldfastError
from holdfast.streams import frames
from holdfast.streams.access import PolicyError
from holdfast.streams.doors.opening import (
    UNDECIDED,
    Decision,
    Opening,
    Permit,
    await_right,
    await_start,
    judge,
)
from holdfast.streams.fanout.pulse import SEND_TIMEOUT, Expiry, Pulse, listening
from holdfast.streams.fanout.subscription import Due, Subscription
from holdfast.streams.frames import Frame

if TYPE_CHECKING:
    from holdfast.streams.cursor import Position
    from holdfast.streams.fanout.hub import Hub

log = logging.getLogger("holdfast.streams")

NORMAL, GOING_AWAY, POLICY, BROKEN, TRY_AGAIN = 1000, 1001, 1008, 1011, 1013
RUN_NOT_FOUND, RUN_EXPIRED = 4404, 4410

_REFUSALS = {
    Opening.ABSENT: ("RUN_NOT_FOUND", RUN_NOT_FOUND),
    Opening.EXPIRED: ("RUN_EXPIRED", RUN_EXPIRED),
}


async def serve(
    hub: Hub,
    run_id: str,
    position: Position,
    websocket: WebSocket,
    *,
    wait: float,
    until: float | None,
    permit: Permit | None = None,
    refused: bool = False,
) -> None:
    """Accept *websocket* and send it the events of a run.

    It ends with the run, the client, the right or the process.

    Args:
        wait: seconds to wait for a run that nobody has started.
        until: when the permission ends, in seconds since 1970.
        permit: given where it could not be decided yet whether the reader is allowed.
        refused: it has said no, to who may be the owner of a run that has not begun: that is told
            when the run has been waited for.
    """
    await websocket.accept()
    try:
        async with (
            Subscription(hub, run_id, position) as subscription,
            listening(websocket.receive, subscription),
        ):
            socket = _Socket(hub, subscription, websocket, until)
            code = await socket.run(position, permit, wait, refused=refused)
        # A client that does not answer the close holds nothing of the run meanwhile.
        await close(websocket, code)
    except HoldfastError as error:
        fields = {"run_id": run_id}
        log.warning("the WebSocket of the run %r breaks off: %s", run_id, error, extra=fields)
        why = "ACCESS_FAILED" if isinstance(error, PolicyError) else "CORRUPT_DATA"
        await deliver(websocket, frames.control_websocket("error", run_id, code=why))
        await close(websocket, BROKEN)


class _Socket:
    """The sender of one open socket."""

    def __init__(
        self, hub: Hub, subscription: Subscription, websocket: WebSocket, until: float | None
    ) -> None:
        self._hub = hub
        self._subscription = subscription
        self._websocket = websocket
        self._expiry = Expiry(subscription, until)
        # No heartbeat: the protocol has pings of its own, which are the server's.
        self._pulse = Pulse(hub.rounds, subscription, math.inf)

    async def run(
        self, position: Position, permit: Permit | None, wait: float, *, refused: bool
    ) -> int:
        """Send what is to be sent; return the close code."""
        try:
            decision = UNDECIDED
            if permit is not None and refused:
                store, subscription = self._hub.store, self._subscription
                decision = await await_right(store, subscription, position, permit, wait)
            if decision.opening is Opening.UNDECIDED:
                decision = await self._decided(position, permit, wait)
            opening = decision.opening
            if self._over():
                return self._why_over()
            if opening is Opening.UNDECIDED:
                return TRY_AGAIN
            if opening is Opening.DENIED:
                await self._send_control("error", code=decision.code)
                return POLICY
            if opening is Opening.SERVE and not await self._relay():
                return self._why_over()
            if self._subscription.expired:
                opening = Opening.EXPIRED
            if opening in _REFUSALS:
                name, code = _REFUSALS[opening]
                await self._send_control("error", code=name)
                return code
            await self._send_control("end")
            return NORMAL
        finally:
            self._pulse.cancel()
            self._expiry.cancel()

    async def _decided(self, position: Position, permit: Permit | None, wait: float) -> Decision:
        """Accepted and held while it cannot be decided: a close would be taken for an answer."""
        store, subscription = self._hub.store, self._subscription
        decision = UNDECIDED
        if permit is None:
            decision = Decision(await await_start(store, subscription, position, wait))
        held = decision.opening is Opening.UNDECIDED
        while decision.opening is Opening.UNDECIDED and not self._over():
            news = subscription.news()
            subscription.doubt()
            decision = await judge(store, subscription.run_id, position, permit)
            if decision.opening is Opening.UNDECIDED:
                if permit is not None and store.available:
                    # The session of this handshake was loaded while Redis was away and stays as it
                    # is. The next one brings a new one.
                    return UNDECIDED
                await news
            elif permit is not None:
                self._expiry.move(decision.until)
        if held and decision.opening is Opening.ABSENT:
            return Decision(await await_start(store, subscription, position, wait))
        return decision

    async def _relay(self) -> bool:
        """Send events until the run ends (True), or the client, the right or the process does."""
        subscription = self._subscription
        while not self._over():
            await self._send_due()
            if subscription.left:
                return False
            if subscription.done:
                return True
            await subscription.wait()
        return False

    async def _send_due(self) -> None:
        subscription = self._subscription
        if batch := subscription.take_batch():
            texts = [frame.websocket(frame.cursor) for frame in batch.frames]
        else:
            texts = [_encode(subscription.run_id, due) for due in await subscription.take()]
        for text in texts:
            await self._send(text)
            if subscription.left:
                return

    def _over(self) -> bool:
        return self._subscription.over or self._expiry.reached

    def _why_over(self) -> int:
        return POLICY if self._expiry.reached else GOING_AWAY

    async def _send_control(self, kind: frames.ControlKind, **fields: str | None) -> None:
        text = frames.control_websocket(kind, self._subscription.run_id, **fields)
        await self._send(text)

    async def _send(self, text: str) -> None:
        await self._pulse.watch(put(self._websocket, text))


def _encode(run_id: str, due: Due) -> str:
    item = due.item
    if isinstance(item, Frame):
        return item.websocket(due.cursor)
    return frames.control_websocket(
        item.kind, run_id, requested=item.requested, earliest=item.earliest
    )


async def deliver(websocket: WebSocket, text: str) -> bool:
    """Send *text*; False where the client takes nothing."""
    try:
        async with asyncio.timeout(SEND_TIMEOUT):
            await put(websocket, text)
    except TimeoutError:
        return False
    return True


async def put(websocket: WebSocket, text: str) -> None:
    """Send *text*, however long the client takes; nothing where it has left."""
    # After the client left, servers differ: one raises an OSError, one an error of its own, two say
    # nothing. listening() is told.
    if websocket.application_state is WebSocketState.CONNECTED:
        with contextlib.suppress(WebSocketDisconnect, OSError, RuntimeError):
            await websocket.send_text(text)


async def close(websocket: WebSocket, code: int) -> None:
    """Close with *code* whatever is still open."""
    states = (websocket.application_state, websocket.client_state)
    if states == (WebSocketState.CONNECTED, WebSocketState.CONNECTED):
        with contextlib.suppress(WebSocketDisconnect, OSError, RuntimeError):
            async with asyncio.timeout(SEND_TIMEOUT):
                await websocket.close(code)
