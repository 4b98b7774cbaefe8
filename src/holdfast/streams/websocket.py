"""One run over a WebSocket: the same events as SSE, as JSON frames, and a close code that says why it ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from holdfast.streams import frames
from holdfast.streams.frames import Frame
from holdfast.streams.opening import Opening, await_start, decide, look
from holdfast.streams.subscription import Due, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from holdfast.streams.cursor import Position
    from holdfast.streams.hub import Hub

NORMAL, GOING_AWAY, POLICY, TRY_AGAIN = 1000, 1001, 1008, 1013
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
) -> None:
    """Accept *websocket* and send it the events of a run, until the run, the client or the right ends."""
    await websocket.accept()
    async with (
        Subscription(hub, run_id, position) as subscription,
        _listening(websocket, subscription),
    ):
        opening = decide(await await_start(hub.store, subscription, wait), position)
        while opening is Opening.UNDECIDED and not subscription.over:
            # Accepted and held: a close would be taken for an answer.
            await subscription.wait()
            info = await look(hub.store, run_id)
            opening = decide(info, position)
        with _timer(subscription, until):
            code = await _run(subscription, opening, websocket, until)
        await _close(websocket, code)


async def _run(
    subscription: Subscription, opening: Opening, websocket: WebSocket, until: float | None
) -> int:
    """Send what is to be sent; return the close code."""
    if opening in _REFUSALS:
        code_name, code = _REFUSALS[opening]
        await _send(
            websocket, frames.control_websocket("error", subscription.run_id, code=code_name)
        )
        return code
    if opening is Opening.SERVE and not await _relay(subscription, websocket, until):
        return POLICY if _expired(until) else GOING_AWAY
    await _send(websocket, frames.control_websocket("end", subscription.run_id))
    return NORMAL


async def _relay(subscription: Subscription, websocket: WebSocket, until: float | None) -> bool:
    """Send events until the run ends (True), or the client, the right or the process does."""
    while not (subscription.over or _expired(until)):
        for due in await subscription.take():
            await _send(websocket, _encode(subscription.run_id, due))
        if subscription.done:
            return True
        await subscription.wait()
    return False


def _encode(run_id: str, due: Due) -> str:
    item = due.item
    if isinstance(item, Frame):
        return item.websocket(due.cursor)
    return frames.control_websocket(
        item.kind, run_id, requested=item.requested, earliest=item.earliest
    )


async def _send(websocket: WebSocket, text: str) -> None:
    # After the client left, servers differ: one raises an OSError, one an error of its own, two say
    # nothing.
    if websocket.application_state is WebSocketState.CONNECTED:
        with contextlib.suppress(WebSocketDisconnect, OSError, RuntimeError):
            await websocket.send_text(text)


async def _close(websocket: WebSocket, code: int) -> None:
    states = (websocket.application_state, websocket.client_state)
    if states == (WebSocketState.CONNECTED, WebSocketState.CONNECTED):
        with contextlib.suppress(WebSocketDisconnect, OSError, RuntimeError):
            await websocket.close(code)


def _expired(until: float | None) -> bool:
    return until is not None and time.time() >= until


@contextlib.contextmanager
def _timer(subscription: Subscription, until: float | None) -> Iterator[None]:
    """Wake the reader when its permission ends."""
    if until is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(max(until - time.time(), 0), subscription.wake)
    try:
        yield
    finally:
        timer.cancel()


@contextlib.asynccontextmanager
async def _listening(websocket: WebSocket, subscription: Subscription) -> AsyncIterator[None]:
    """Notice that the client leaves. What it says is not for us; reading it keeps its pings answered."""

    async def listen() -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass
        subscription.leave()

    task = asyncio.get_running_loop().create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
