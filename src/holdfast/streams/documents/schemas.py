"""What is on the wire, as JSON Schema (2020-12): the one description of it that programs can read.

Values only, shared by the documents of the HTTP part and of the frames. ``frames`` and ``rest``
spell what is described here; a test holds what they send to it.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

VERSION = "1"
"""Of what is on the wire: fields may be added in it, none is changed or taken away."""

_NUMBER = r"(0|[1-9][0-9]{0,18})"
_ID = rf"{_NUMBER}-{_NUMBER}"
_CURSOR = rf"{_ID}(~[A-Za-z0-9]{{1,32}}\.[1-9][0-9]{{0,17}}){{0,8}}"

RUN_ID: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 256,
    "pattern": r"^(?!\.{1,2}$)[^\x00-\x1f\x7f-\x9f{}]+$",
    "description": "Exact text: no control characters, no braces, not `.` or `..`. In an address it"
    " is percent-encoded as a whole, so a `/` in it is `%2F`.",
}
EVENT_ID: Schema = {
    "type": "string",
    "pattern": f"^{_CURSOR}$",
    "description": "The Redis stream id of an event. Delivered before Redis could store it, it has"
    " a suffix; it is a position like any other.",
    "examples": ["1795258887617-0", "1795258887617-2~5f1c9e02ab77.14"],
}
PAGE_POSITION: Schema = {"type": "string", "pattern": rf"^(0|-1|{_ID})?$"}
POSITION: Schema = {"type": "string", "pattern": rf"^(0|-1|\$|{_CURSOR})?$"}
COMPOSITE: Schema = {"type": "string", "maxLength": 4096, "pattern": r"^[\x21-\x7e]*$"}
EVENT_TYPE: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 256,
    "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$",
    "description": "`workflow_complete`, `workflow_error`, `run_stopped` and `run_lost` end a run.",
}
WRITTEN_TYPE: Schema = {
    **EVENT_TYPE,
    "pattern": r"^(?!holdfast\.)(?!(run_stopped|run_lost)$)[^\x00-\x1f\x7f-\x9f]+$",
    "description": "Not `holdfast.*`, `run_stopped` or `run_lost`, which are holdfast's own."
    " `workflow_complete` and `workflow_error` end the run.",
}
CREATED_AT: Schema = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
}


def _object(properties: Schema, *optional: str, **more: Any) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, **more}


NEW_EVENT = _object(
    {"type": WRITTEN_TYPE, "data": {"description": "Any JSON value; `null` unless given."}},
    "data",
    additionalProperties=False,
)
WRITTEN = _object(
    {
        "events": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1000,
            "items": _object({"id": EVENT_ID, "type": EVENT_TYPE, "created_at": CREATED_AT}),
        }
    }
)
STORED_EVENT = _object({"id": EVENT_ID, "type": EVENT_TYPE, "data": True, "created_at": CREATED_AT})
PAGE = _object(
    {
        "run_id": RUN_ID,
        "status": {"enum": ["open", "ended"]},
        "events": {"type": "array", "maxItems": 1000, "items": STORED_EVENT},
        "has_more": {"type": "boolean"},
        "next_id": {
            "type": ["string", "null"],
            "description": "The `start_id` of the next page; `null` at the end.",
        },
    }
)
PROBLEM = _object(
    {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stays the same over versions."},
        "detail": {"type": "string"},
    },
    "detail",
)
HEALTH = _object({"status": {"enum": ["ok", "degraded", "stopping"]}})

_NAMED: Schema = {
    "type": ["string", "null"],
    "maxLength": 256,
    "description": "The run; of a frame that named none that can be, what it named.",
}
_ENDED: Schema = {"type": ["string", "null"], "description": "An event id, or `null`."}


def _frame(kind: str, told: str, properties: Schema, *optional: str) -> Schema:
    return _object({"kind": {"const": kind}, **properties}, *optional, description=told)


FRAMES: dict[str, Schema] = {
    "event": _frame(
        "event",
        "One event of a run.",
        {
            "run_id": RUN_ID,
            "id": EVENT_ID,
            "type": EVENT_TYPE,
            "data": True,
            "created_at": CREATED_AT,
            "cursor": {**COMPOSITE, "description": "Of many runs: where all of them are resumed."},
        },
        "cursor",
    ),
    "gap": _frame(
        "gap",
        "Events after the reader's position are gone; the rest follows.",
        {"run_id": RUN_ID, "requested": _ENDED, "earliest": _ENDED},
    ),
    "reset": _frame(
        "reset",
        "The reader's position is not of this run as it is now; it follows from its start.",
        {"run_id": RUN_ID, "requested": _ENDED, "earliest": _ENDED},
    ),
    "end": _frame("end", "The run has ended; nothing of it follows.", {"run_id": RUN_ID}),
    "error": _frame(
        "error",
        "Nothing more comes of the run, or what the client said makes no sense.",
        {"run_id": _NAMED, "code": {"type": "string"}},
    ),
    "denied": _frame(
        "denied",
        "The right to read was refused after the connection had begun. On Server-Sent Events and on"
        " connections of many runs.",
        {"run_id": RUN_ID, "code": {"type": "string"}},
        "code",
    ),
    "added": _frame("added", "Of many runs: it is read from now on.", {"run_id": RUN_ID}),
    "dropped": _frame("dropped", "Of many runs: it is read no more.", {"run_id": RUN_ID}),
}
"""What a server sends, by its ``kind``. Fields may be added to a frame, none is taken away."""

COMMANDS: dict[str, Schema] = {
    "add": _frame(
        "add",
        "Read a run too. Answered by `added`, or by `error`.",
        {"run_id": RUN_ID, "last_id": POSITION, "token": {"type": "string"}},
        *("last_id", "token"),
    ),
    "drop": _frame(
        "drop", "Read a run no more. Answered by `dropped`, or by `error`.", {"run_id": RUN_ID}
    ),
}
"""What a client says on a WebSocket of many runs."""
