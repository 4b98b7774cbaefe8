"""The frames as an AsyncAPI 3 document: what streams and WebSockets carry, and in which direction.

A value made of the schemas of the frames; nothing is served here.
"""

from __future__ import annotations

from typing import Any

from holdfast.streams.documents import schemas

Json = dict[str, Any]

_ONE = ["event", "gap", "reset", "end", "error"]
_STREAM = ["event", "gap", "reset", "denied"]
_MANY_STREAM = ["event", "gap", "reset", "end", "error", "denied"]
_MANY = [*_MANY_STREAM, "added", "dropped"]
_RUN = {"run_id": {"description": "The run, percent-encoded as a whole."}}
_CLOSE = """\
Close codes: 1000 the runs have ended, 1001 the server stops, 1008 the permission has ended, 1011
what is stored cannot be read, 1013 come back later, 4404 no such run, 4410 its events are gone."""
_SSE = """\
Server-Sent Events. `event:` is the type of an event, or `holdfast.` and the kind of any other
frame; `id:` is the position after it, and missing where the position does not move. `data:` is the
`data` of the event{}; with `?envelope=1` every frame is a `message` with the whole frame as its
`data:`."""


def document() -> Json:
    """Return the document of the frames."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Event streams: the frames",
            "version": schemas.VERSION,
            "description": "Version 1: fields may be added, never changed. The addresses, and what"
            " is answered in place of a stream, are in `openapi.json`.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "runStream": _channel(
                "runs/{run_id}/events/stream", _SSE.format(""), _STREAM, run=True
            ),
            "runSocket": _channel("runs/{run_id}/events/ws", _CLOSE, _ONE, run=True),
            "manyStream": _channel(
                "events/stream", _SSE.format(", as a frame with its run"), _MANY_STREAM
            ),
            "manySocket": _channel("events/ws", _CLOSE, [*_MANY, *schemas.COMMANDS]),
        },
        "operations": {
            "streamRun": _operation("send", "runStream", _STREAM),
            "serveRun": _operation("send", "runSocket", _ONE),
            "streamManyRuns": _operation("send", "manyStream", _MANY_STREAM),
            "serveManyRuns": _operation("send", "manySocket", _MANY),
            "obeyClient": _operation("receive", "manySocket", list(schemas.COMMANDS)),
        },
        "components": {
            "messages": {
                kind: {"name": kind, "summary": schema["description"], "payload": schema}
                for kind, schema in (schemas.FRAMES | schemas.COMMANDS).items()
            }
        },
    }


def _channel(address: str, told: str, kinds: list[str], *, run: bool = False) -> Json:
    messages = {kind: {"$ref": f"#/components/messages/{kind}"} for kind in kinds}
    found: Json = {"address": address, "description": told, "messages": messages}
    return {**found, "parameters": _RUN} if run else found


def _operation(action: str, channel: str, kinds: list[str]) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{kind}"} for kind in kinds],
    }
