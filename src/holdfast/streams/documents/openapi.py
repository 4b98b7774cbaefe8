"""The HTTP part as an OpenAPI 3.1 document: every address, parameter, answer and problem code.

A value made of the problems and schemas that the answers are made of; nothing is served here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from holdfast.streams import problems
from holdfast.streams.documents import schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.streams.problems import Problem

Json = dict[str, Any]

_GUARDED = [
    *(problems.INVALID_RUN_ID, problems.UNAUTHORIZED, problems.FORBIDDEN),
    *(problems.TOO_MANY_ATTEMPTS, problems.ACCESS_FAILED, problems.CORRUPT, problems.UNAVAILABLE),
]
_READ = [
    *(problems.INVALID_ID, problems.INVALID_LIMIT, problems.INVALID_WAIT),
    *(problems.RUN_NOT_FOUND, problems.NO_HISTORY, problems.RUN_EXPIRED),
]
_PUBLISHED = [
    *(problems.INVALID_KEY, problems.INVALID_JSON, problems.RUN_ENDED, problems.RUN_EXPIRED),
    *(problems.BODY_TOO_LARGE, problems.EVENT_TOO_LARGE, problems.NOT_JSON),
    *(problems.INVALID_EVENT, problems.KEY_REUSED),
]
_MANY = [
    *(problems.NO_RUN, problems.TOO_MANY_RUNS, problems.REPEATED_RUN),
    *(problems.TOO_MANY_TOKENS, problems.INVALID_ID, problems.INVALID_WAIT),
]
_ABOUT = """\
The events of runs: read them, publish them, stop a run. Addresses are relative to where the app is
mounted. Every address also answers HEAD (where it answers GET) and OPTIONS, whose `Allow` names its
methods; any other method is 405 `METHOD_NOT_ALLOWED`, any other address 404 `NOT_FOUND`. The frames
of streams and WebSockets are described by `asyncapi.json`."""
_FORMS = """\
Both addresses of a run's events give both forms: history as JSON or the stream, whichever `Accept`
likes better; this one gives {} to whoever does not say."""


def document(access: str, cookie: str = "session", mount: str = "") -> Json:
    """Return the document of an app.

    Args:
        access: ``HOLDFAST_STREAM_ACCESS``, which decides what opens what.
        cookie: the name of the session's.
        mount: the path at which the app is reached, as far as it knows.
    """
    reading, stopping = _security(access, "read"), _security(access, "stop")
    publishing = _security(access, "publish")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Event streams", "version": schemas.VERSION, "description": _ABOUT},
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        # The second is right behind a proxy too that takes a prefix away unsaid; many tools know
        # no address that is relative to the document's, and take the first.
        "servers": [
            {"url": quote(mount) or "/", "description": "Where the app is mounted."},
            {"url": ".", "description": "Where this document is."},
        ],
        "tags": [{"name": "runs"}, {"name": "health"}, {"name": "about"}],
        "paths": {
            "/runs/{run_id}/events": {
                "parameters": [_RUN],
                "get": _reading("readEvents", "Read history", "history", reading),
                "post": _publish(publishing),
            },
            "/runs/{run_id}/events/stream": {
                "parameters": [_RUN],
                "get": _reading("streamEvents", "Read history, then live", "the stream", reading),
            },
            "/runs/{run_id}/stop": {"parameters": [_RUN], "post": _stop(stopping)},
            "/events/stream": {"get": _many(reading)},
            **_OTHERS,
        },
        "components": {
            "schemas": {
                "Event": schemas.STORED_EVENT,
                "Page": schemas.PAGE,
                "NewEvent": schemas.NEW_EVENT,
                "Written": schemas.WRITTEN,
                "Problem": schemas.PROBLEM,
                "Health": schemas.HEALTH,
            },
            "securitySchemes": {**_SCHEMES, "session": {**_SCHEMES["session"], "name": cookie}},
        },
    }


# -- what opens what

_SCHEMES: Json = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `stream_token()` that grants the action on the run.",
    },
    "queryToken": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "The same where headers cannot be set, as with `EventSource`.",
    },
    "publishToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "One of `HOLDFAST_STREAM_PUBLISH_TOKEN`. It opens publishing alone.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "description": "The session that owns the run. To stop it, the request must come from a"
        " page of the same origin, or of one in `HOLDFAST_STREAM_ALLOWED_ORIGINS`.",
    },
}
_TOKENS: list[Json] = [{"token": []}, {"queryToken": []}]


def _security(access: str, action: str) -> list[Json]:
    if access == "open" and action == "read":
        return []
    if access not in {"open", "session", "token"}:
        return [{}]  # the app's own function decides, by whatever it looks at
    found = [*_TOKENS, {"publishToken": []}] if action == "publish" else list(_TOKENS)
    return [*found, {"session": []}] if access == "session" and action != "publish" else found


# -- parameters

_RUN: Json = {"name": "run_id", "in": "path", "required": True, "schema": schemas.RUN_ID}
_POSITION = "An event id; `0`, `-1` or empty for the start; `$` for only what comes from now."


def _parameter(name: str, told: str, schema: Json, where: str = "query") -> Json:
    return {"name": name, "in": where, "description": told, "schema": schema}


_WAIT = _parameter(
    "wait",
    "Stream: seconds to wait for a run that nobody has started, 60 at most, before 404.",
    {"type": "number", "minimum": 0},
)
_ENVELOPE = _parameter(
    "envelope",
    "Stream: `1` sends every event as `message`, with the WebSocket frame as its data.",
    {"type": "string", "enum": ["0", "1"]},
)
_LAST_ID = _parameter("last_id", f"Stream: where to begin. {_POSITION}", schemas.POSITION)
_LAST_EVENT_ID = _parameter(
    "Last-Event-ID", "Stream: the same; it beats `last_id`.", schemas.POSITION, "header"
)
_RANGE = [
    _parameter("start_id", "History: the first event, inclusive.", schemas.PAGE_POSITION),
    _parameter("end_id", "History: the last event, inclusive.", schemas.PAGE_POSITION),
    _parameter(
        "limit",
        "History: how many events at most; above 1000 is taken as 1000.",
        {"type": "integer", "minimum": 1, "default": 100},
    ),
]
_KEY = _parameter(
    "Idempotency-Key",
    "Names this request: sent again with the same body it writes nothing and gets the same answer."
    " It belongs to the run and lives with it.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21\x23-\x7e]{1,255}$"},
    "header",
)

# -- answers

_PRIVATE: Json = {
    "Cache-Control": {"required": True, "schema": {"const": "no-store, no-transform"}},
    "Referrer-Policy": {"required": True, "schema": {"const": "no-referrer"}},
}
_EVENT_STREAM: Json = {
    "text/event-stream": {
        "example": 'id: 1795258887617-0\nevent: token\ndata: {"text":"Hel"}\n\n',
    }
}
_VARY: Json = {"Vary": {"required": True, "schema": {"type": "string"}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> Json:
    return {"application/json": {"schema": _ref(name)}}


def _answer(told: str, content: Json | None = None, headers: Json = _PRIVATE) -> Json:
    found: Json = {"description": told, "headers": headers}
    return found if content is None else {**found, "content": content}


def _problems(found: Iterable[Problem]) -> Json:
    """Describe *found*, one answer for each status."""
    by_status: dict[int, list[Problem]] = {}
    for problem in found:
        by_status.setdefault(problem.status, []).append(problem)
    return {str(status): _problem(some) for status, some in sorted(by_status.items())}


def _problem(some: list[Problem]) -> Json:
    codes = [problem.code for problem in some]
    headers = dict(_PRIVATE)
    if some[0].status in {429, 503}:
        headers["Retry-After"] = {"required": True, "schema": {"type": "string"}}
    if some[0].status == 401:
        headers["WWW-Authenticate"] = {"required": True, "schema": {"const": "Bearer"}}
    schema = {"allOf": [_ref("Problem"), {"properties": {"code": {"enum": codes}}}]}
    told = "; ".join(f"`{problem.code}`: {problem.title}" for problem in some)
    return _answer(told, {"application/problem+json": {"schema": schema}}, headers)


# -- operations


def _reading(name: str, summary: str, usual: str, security: list[Json]) -> Json:
    return {
        "operationId": name,
        "tags": ["runs"],
        "summary": summary,
        "description": _FORMS.format(usual),
        "security": security,
        "parameters": [*_RANGE, _LAST_ID, _LAST_EVENT_ID, _WAIT, _ENVELOPE],
        "responses": {
            "200": _answer(
                "A page of history, or the stream, which ends with its run.",
                {**_json("Page"), **_EVENT_STREAM},
                {**_PRIVATE, **_VARY},
            ),
            "204": _answer("Stream: nothing can follow. It stops `EventSource`."),
            **_problems([*_GUARDED, *_READ]),
        },
    }


def _publish(security: list[Json]) -> Json:
    events = {"type": "array", "minItems": 1, "maxItems": 1000, "items": _ref("NewEvent")}
    return {
        "operationId": "publishEvents",
        "tags": ["runs"],
        "summary": "Publish events",
        "description": "All of them are written, or none. The first event creates the run; one"
        " that ends it can only be the last. While Redis is away the answer is 503: nothing waits"
        " to be written later.",
        "security": security,
        "parameters": [_KEY],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [_ref("NewEvent"), events]},
                    "example": {"type": "token", "data": {"text": "Hel"}},
                }
            },
        },
        "responses": {
            "201": _answer("What was written, in order.", _json("Written")),
            **_problems([*_GUARDED, *_PUBLISHED]),
        },
    }


def _stop(security: list[Json]) -> Json:
    return {
        "operationId": "stopRun",
        "tags": ["runs"],
        "summary": "Ask a run to stop",
        "description": "The mark stays with the run, and may come before it: then the run finds it"
        " when it begins, within an hour. Its publisher ends it with `run_stopped`.",
        "security": security,
        "responses": {
            "202": _answer("It has been asked, now or before."),
            **_problems([*_GUARDED, problems.RUN_ENDED, problems.RUN_EXPIRED]),
        },
    }


def _many(security: list[Json]) -> Json:
    told = "Where to begin in all runs: the id of an event of this stream."
    run = _parameter(
        "run", "A run; given once for each.", {"type": "array", "items": schemas.RUN_ID}
    )
    run["schema"] |= {"minItems": 1, "maxItems": 100, "uniqueItems": True}
    return {
        "operationId": "streamManyRuns",
        "tags": ["runs"],
        "summary": "Read many runs over one connection",
        "description": "`event:` is the type, `data:` the WebSocket frame, `id:` resumes all runs."
        " `?token=` may be repeated; a run that none of them opens is told by `holdfast.error`.",
        "security": security,
        "parameters": [
            {**run, "required": True, "style": "form", "explode": True},
            _parameter("last_id", told, schemas.COMPOSITE),
            _parameter("Last-Event-ID", f"{told} It beats `last_id`.", schemas.COMPOSITE, "header"),
            *(_WAIT, _ENVELOPE),
        ],
        "responses": {
            "200": _answer("The stream, which ends with its last run.", _EVENT_STREAM),
            "204": _answer("Nothing can follow in any of the runs."),
            **_problems([*_GUARDED, *_MANY]),
        },
    }


def _plain(name: str, tag: str, summary: str, content: Json, **statuses: Json) -> Json:
    answers = {"200": _answer(summary, content, {}), **statuses}
    return {"get": {"operationId": name, "tags": [tag], "summary": summary, "responses": answers}}


def _file(name: str, summary: str, media_type: str) -> Json:
    unchanged = _answer("The client has it: `If-None-Match` names its `ETag`.", None, {})
    content = {media_type: {"schema": {"type": "string"}}}
    if media_type.endswith("json"):
        content = {media_type: {"schema": {"type": "object"}}}
    return _plain(name, "about", summary, content, **{"304": unchanged})


_NOT_READY = {
    "503": _answer("It stops, or Redis is required and away.", _json("Health"), {}),
}
_OTHERS: Json = {
    "/livez": _plain("live", "health", "The process answers", _json("Health")),
    "/readyz": _plain(
        "ready", "health", "Requests may be sent here", _json("Health"), **_NOT_READY
    ),
    "/openapi.json": _file("openapi", "This document", "application/json"),
    "/asyncapi.json": _file("asyncapi", "The frames, as AsyncAPI 3", "application/json"),
    "/docs": _file("docs", "Both, as a page", "text/html"),
    "/holdfast.js": _file("client", "The browser's client", "text/javascript"),
    "/holdfast.d.ts": _file("clientTypes", "Its types", "application/typescript"),
}
