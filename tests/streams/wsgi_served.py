"""The WSGI app that the tests serve as processes: streams, and a way to publish from inside."""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from holdfast import EventStore, SyncRunPublisher, WSGIEventStreamApp
from holdfast.streams.select import hubs_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

streams = WSGIEventStreamApp()


def emit(run_id: str, query: dict[str, list[str]]) -> Any:
    """Publish ``count`` events from ``first`` on, and end the run if asked."""
    publisher = SyncRunPublisher(run_id)
    first, count = int(query.get("first", ["1"])[0]), int(query.get("count", ["1"])[0])
    pause = float(query.get("pause", ["0"])[0])
    ids = []
    for n in range(first, first + count):
        ids.append(publisher.emit("t", {"n": n, "at": time.time()}).id)
        time.sleep(pause)
    if "end" in query:
        ids.append(publisher.workflow_complete().id)
    return ids


def state() -> Any:
    hubs = list(hubs_of(EventStore.from_settings()).values())
    return {
        "pid": os.getpid(),
        "hubs": len(hubs),
        "subscribers": sum(len(hub.subscribers) for hub in hubs),
        "threads": threading.active_count(),
        "rss_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    first, _, rest = environ["PATH_INFO"].removeprefix("/").partition("/")
    if first == "streams":
        environ = {**environ, "SCRIPT_NAME": "/streams", "PATH_INFO": "/" + rest}
        return streams(environ, start_response)
    told = state() if first == "state" else emit(rest, parse_qs(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


if "LOAD" in os.environ:
    # As an application that is used before its server forks.
    SyncRunPublisher("the-parents").emit("t", {"n": 0})
    streams(
        {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/runs/the-parents/events",
            "wsgi.input": None,
        },
        lambda *_: None,  # type: ignore[arg-type]
    )
