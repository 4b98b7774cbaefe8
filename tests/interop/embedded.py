"""A program that serves in a thread, where no signal is heard, and ends by its own will."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route
from tests.streams.served import emit

from holdfast import EventStreamApp

if TYPE_CHECKING:
    from starlette.requests import Request

quitting = threading.Event()


async def leave(request: Request) -> Response:
    quitting.set()
    return Response()


def main() -> None:
    streams = EventStreamApp()
    routes = [
        Route("/emit/{run}", emit, methods=["POST"]),
        Route("/quit", leave, methods=["POST"]),
        Mount("/streams", streams),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=int(sys.argv[1]))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    quitting.wait()
    server.should_exit = True
    streams.close()
    thread.join()


if __name__ == "__main__":
    main()
