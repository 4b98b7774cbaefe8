"""The page that shows what the sub-app answers: one HTML document, nothing fetched, no script.

Pure: the documents for programs in, markup out. All text is escaped, whoever wrote it.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from functools import lru_cache
from hashlib import sha256
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]


@lru_cache
def style() -> str:
    """Return the style sheet, which is part of the page."""
    return (resources.files("holdfast.streams") / "static" / "docs.css").read_text()


@lru_cache
def content_security_policy() -> str:
    """Return what the page may do: show itself in its own style, and nothing else."""
    digest = b64encode(sha256(style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def page(openapi: Json, asyncapi: Json) -> str:
    """Return the page that shows both documents."""
    operations = list(_operations(openapi))
    frames = asyncapi["components"]["messages"]
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(openapi['info']['title'])}</title><style>{style()}</style></head><body>",
            f"<header><h1>{escape(openapi['info']['title'])}</h1>",
            _prose(openapi["info"]["description"]),
            '<p>For programs: <a href="openapi.json">openapi.json</a>,',
            ' <a href="asyncapi.json">asyncapi.json</a>.</p></header>',
            _contents(operations, asyncapi),
            "<main><h2>Addresses</h2>",
            *(_operation(openapi, *each) for each in operations),
            "<h2>Streams and WebSockets</h2>",
            *(_channel(name, each) for name, each in asyncapi["channels"].items()),
            "<h2>Frames</h2>",
            *(_frame(kind, each["payload"]) for kind, each in frames.items()),
            "<h2>Tokens</h2>",
            _table(_schemes(openapi)),
            "</main></body></html>",
        ]
    )


def _operations(openapi: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in openapi["paths"].items():
        for method in ("get", "post"):
            if method in item:
                shared = item.get("parameters", [])
                parameters = [*shared, *item[method].get("parameters", [])]
                yield method, path, {**item[method], "parameters": parameters}


def _contents(operations: Iterable[tuple[str, str, Json]], asyncapi: Json) -> str:
    links = [
        f'<li><a href="#{escape(each["operationId"])}">{escape(each["summary"])}</a></li>'
        for _, _, each in operations
    ]
    links += [
        f'<li><a href="#{escape(name)}"><code>{escape(each["address"])}</code></a></li>'
        for name, each in asyncapi["channels"].items()
    ]
    return f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'


def _operation(openapi: Json, method: str, path: str, each: Json) -> str:
    head = (
        f'<h3 class="method {method}">{method.upper()}</h3><code>{escape(path)}</code>'
        f"<span>{escape(each['summary'])}</span>"
    )
    parts = [_prose(each.get("description", ""))]
    if "security" in each:
        opened = [name for either in each["security"] for name in either] or ["no token"]
        parts.append(f"<p>Opened by: {', '.join(map(escape, opened))}.</p>")
    if each["parameters"]:
        parts += ["<h4>Parameters</h4>", _table(map(_parameter, each["parameters"]))]
    for media_type, body in each.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(openapi, body["schema"])
        parts += [f"<h4>Body: {escape(media_type)}</h4>", _example(schema)]
    answers = ((status, _told(answer)) for status, answer in each["responses"].items())
    parts += ["<h4>Answers</h4>", _table(answers)]
    for media_type, content in each["responses"].get("200", {}).get("content", {}).items():
        if "example" in content:
            parts += [f"<h4>{escape(media_type)}</h4>", f"<pre>{escape(content['example'])}</pre>"]
        elif "$ref" in content.get("schema", ()):
            schema = _resolved(openapi, content["schema"])
            parts += [f"<h4>{escape(media_type)}</h4>", _example(schema)]
    return _details(each["operationId"], head, parts)


def _told(answer: Json) -> str:
    headers = answer.get("headers", {})
    named = [name for name in headers if name not in {"Cache-Control", "Referrer-Policy"}]
    more = "".join(f" <code>{escape(name)}</code>" for name in named)
    return _inline(answer["description"]) + (f"<br>With{more}." if more else "")


def _parameter(each: Json) -> tuple[str, str]:
    where = f"in the {each['in']}" + (", required" if each.get("required") else "")
    told = each.get("description") or each["schema"].get("description", "")
    return f"{each['name']}", f"{_inline(told)} <small>({escape(where)})</small>"


def _channel(name: str, each: Json) -> str:
    head = f"<h3><code>{escape(each['address'])}</code></h3>"
    kinds = " ".join(f"<code>{escape(kind)}</code>" for kind in each["messages"])
    return _details(name, head, [_prose(each["description"]), f"<p>Frames: {kinds}</p>"])


def _frame(kind: str, schema: Json) -> str:
    head = f"<h3><code>{escape(kind)}</code></h3><span>{_inline(schema['description'])}</span>"
    return _details(f"frame-{kind}", head, [_example(schema)])


def _schemes(openapi: Json) -> Iterator[tuple[str, str]]:
    for name, each in openapi["components"]["securitySchemes"].items():
        yield name, _inline(each["description"])


def _details(name: str, head: str, parts: Iterable[str]) -> str:
    body = "".join(parts)
    return f'<details id="{escape(name)}"><summary>{head}</summary><div>{body}</div></details>'


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{told}</td></tr>'
        for name, told in rows
    )
    return f"<table>{cells}</table>"


def _prose(text: str) -> str:
    return f"<p>{_inline(text)}</p>" if text else ""


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _resolved(openapi: Json, schema: Any) -> Any:
    """Put what a reference names in its place."""
    if isinstance(schema, list):
        return [_resolved(openapi, each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return {name: _resolved(openapi, each) for name, each in schema.items()}


def _example(schema: Json) -> str:
    return f"<pre>{escape(json.dumps(_sketch(schema), indent=2, ensure_ascii=False))}</pre>"


def _sketch(schema: Any) -> Any:
    """Show the form of a value: a name for each text, an element for each list."""
    if schema is True or not isinstance(schema, dict):
        return "any JSON"
    if "const" in schema:
        return schema["const"]
    if "properties" in schema:
        return {name: _sketch(each) for name, each in schema["properties"].items()}
    if "anyOf" in schema:
        return _sketch(schema["anyOf"][0])
    if "items" in schema:
        return [_sketch(schema["items"])]
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("examples"):
        return schema["examples"][0]
    return _kind(schema)


def _kind(schema: Json) -> str:
    kinds = schema.get("type", "any JSON")
    return schema.get("format") or (" | ".join(kinds) if isinstance(kinds, list) else kinds)
