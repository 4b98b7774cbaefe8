"""A server with OpenAI's interface: both streams, as the real one spells them. MODEL says how."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

asked: list[str] = []
left: list[str] = []
ARGUMENTS = '{"city":"Bergen"}'
WORDS = ["It ", "is ", "sunny."]


def chunk(delta: dict[str, Any], *, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    return {**_chunk(), "choices": [choice]}


def _chunk() -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}


def call(text: str | None, **first: Any) -> dict[str, Any]:
    function = {"arguments": text, **({"name": "weather"} if first else {})}
    return {"tool_calls": [{"index": 0, "function": function, **first}]}


def chat_chunks(model: str) -> Iterator[dict[str, Any]]:
    yield chunk({"role": "assistant", "content": ""})
    if model == "tools":
        yield chunk(call("", id="call_1", type="function"))
        yield chunk(call(ARGUMENTS[:6]))
        yield chunk(call(ARGUMENTS[6:]))
        yield chunk({}, reason="tool_calls")
    elif model == "two":
        yield chunk({"content": "a"})
        yield chunk({"content": "b"}, index=1)
        yield chunk({}, reason="stop")
        yield chunk({}, reason="length", index=1)
    elif model == "fails":
        yield chunk({"content": "It "})
        yield {"error": {"message": "the model is overloaded"}}
    else:
        if model == "reasons":
            yield chunk({"reasoning_content": "They ask of the weather."})
        for word in WORDS:
            yield chunk({"content": word})
        yield chunk({}, reason="stop")
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    yield {**_chunk(), "choices": [], "usage": usage}


def response(status: str, **more: Any) -> dict[str, Any]:
    shape = {"id": "resp_1", "object": "response", "created_at": 1, "model": "fake", "output": []}
    return {**shape, "status": status, **more}


def response_events(model: str) -> Iterator[dict[str, Any]]:
    yield {"type": "response.created", "response": response("in_progress")}
    if model == "fails":
        error = {"code": "server_error", "message": "the model is overloaded"}
        yield {"type": "response.failed", "response": response("failed", error=error)}
        return
    if model == "breaks":
        yield {"type": "error", "code": "x", "message": "the line is cut", "param": None}
        return
    if model == "reasons":
        delta = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
        kind = "response.reasoning_summary_text.delta"
        yield {"type": kind, **delta, "delta": "They ask of the weather."}
    if model == "tools":
        item = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather"}
        added = {**item, "arguments": "", "status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": 0, "item": added}
        for text in (ARGUMENTS[:6], ARGUMENTS[6:]):
            kind = "response.function_call_arguments.delta"
            yield {"type": kind, "item_id": "fc_1", "output_index": 0, "delta": text}
        done = {**item, "arguments": ARGUMENTS, "status": "completed"}
        yield {"type": "response.output_item.done", "output_index": 0, "item": done}
        search = {"id": "ws_1", "type": "web_search_call", "status": "completed"}
        yield {"type": "response.output_item.done", "output_index": 1, "item": search}
    else:
        yield from message_events()
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    details: dict[str, Any] = {"input_tokens_details": {}, "output_tokens_details": {}}
    whole = response("completed", usage={**usage, **details})
    yield {"type": "response.completed", "response": whole}


def message_events() -> Iterator[dict[str, Any]]:
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress"}
    added = {"output_index": 0, "item": {**item, "content": []}}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
    yield {"type": "response.output_item.added", **added}
    yield {"type": "response.content_part.added", **place, "part": part}
    for word in WORDS:
        yield {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
    text = "".join(WORDS)
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    whole = {**part, "text": text}
    yield {"type": "response.content_part.done", **place, "part": whole}
    done = {**item, "status": "completed", "content": [whole]}
    yield {"type": "response.output_item.done", "output_index": 0, "item": done}


async def chat(request: Request) -> Response:
    body = await request.json()
    asked.append(body["model"])
    return StreamingResponse(_stream_chat(body["model"]), media_type="text/event-stream")


async def _stream_chat(model: str) -> AsyncIterator[str]:
    try:
        for each in chat_chunks(model):
            yield f"data: {json.dumps(each)}\n\n"
            if model == "endless" and each["choices"] and each["choices"][0]["delta"]["content"]:
                await asyncio.Event().wait()
        yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        left.append(model)
        raise


async def responses(request: Request) -> Response:
    body = await request.json()
    asked.append(body["model"])

    async def stream() -> AsyncIterator[str]:
        for number, event in enumerate(response_events(body["model"])):
            data = json.dumps({**event, "sequence_number": number})
            yield f"event: {event['type']}\ndata: {data}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


async def counted(_: Request) -> Response:
    return JSONResponse({"asked": asked, "left": left})


app = Starlette(
    routes=[
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/responses", responses, methods=["POST"]),
        Route("/counted", counted),
    ]
)
