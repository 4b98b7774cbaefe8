"""A run in a client's own format, over HTTP: told whole to whoever comes, and to its end."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.background import BackgroundTask
from tests.streams.asgi import Call
from tests.streams.clients import until

from holdfast import EventStore, RunPublisher, Settings, start_run
from holdfast.agents.ag_ui import AGUIResponse
from holdfast.agents.ai_sdk import UIMessageStreamResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Message

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio


def text_of(sent: list[Message]) -> str:
    return b"".join(each.get("body", b"") for each in sent).decode()


def frames_of(sent: list[Message]) -> list[Any]:
    found = [line[6:] for line in text_of(sent).split("\n") if line.startswith("data: ")]
    return [json.loads(each) if each.startswith("{") else each for each in found]


def types_of(sent: list[Message]) -> list[str]:
    return [each if isinstance(each, str) else each["type"] for each in frames_of(sent)]


def headers_of(sent: list[Message]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


async def answered(response: Any, path: str = "/", **more: Any) -> list[Message]:
    async with Call(response, path, **more) as call:
        await until(call.task.done, 20)
        return call.sent


async def words(*gates: asyncio.Event) -> AsyncIterator[Any]:
    yield "token", {"text": "It "}
    for gate in gates:
        await gate.wait()
    yield "token", {"text": "holds."}


BEGUN = ["start", "start-step", "text-start", "text-delta"]
TEXT = [*BEGUN, "text-delta", "text-end", "finish-step", "finish", "[DONE]"]


async def test_who_comes_in_the_middle_is_told_all_of_it(settings: Settings) -> None:
    gate = asyncio.Event()
    response = UIMessageStreamResponse("r", words(gate), settings=settings)
    async with Call(response, "/") as first:
        await until(lambda: "text-delta" in types_of(first.sent))
        later = UIMessageStreamResponse("r", settings=settings)
        async with Call(later, "/") as second:
            await until(lambda: "text-delta" in types_of(second.sent))
            gate.set()
            await until(lambda: first.task.done() and second.task.done(), 20)
    assert types_of(first.sent) == TEXT
    assert frames_of(first.sent) == frames_of(second.sent)
    assert headers_of(first.sent)["x-vercel-ai-ui-message-stream"] == "v1"
    assert headers_of(first.sent)["content-type"].startswith("text/event-stream")


async def test_a_position_is_none_of_these_formats(settings: Settings) -> None:
    store = EventStore.from_settings(settings)
    first = await store.add("r", "token", {"text": "It "})
    await store.add("r", "workflow_complete", {"output": None})
    for path in ("/", f"/?last_id={first.id}", "/?last_id=nonsense&envelope=0"):
        response = UIMessageStreamResponse("r", words(), settings=settings)
        sent = await answered(response, path, headers={"last-event-id": first.id})
        assert types_of(sent) == [*BEGUN, *TEXT[-4:]]
        assert "\nid:" not in text_of(sent)
        assert "event:" not in text_of(sent)


async def test_only_an_open_run_is_resumed(settings: Settings) -> None:
    for status in ("absent", "ended"):
        done: list[str] = []
        background = BackgroundTask(done.append, status)
        response = UIMessageStreamResponse("r", settings=settings, background=background)
        sent = await answered(response)
        assert sent[0]["status"] == 204
        assert done == [status]
        await (await start_run("r", words(), settings=settings)).wait()
    assert await EventStore.from_settings(settings).status("r") == "ended"


async def test_ag_ui_tells_an_ended_run_again_and_no_absent_one(settings: Settings) -> None:
    assert (await answered(AGUIResponse("r", settings=settings)))[0]["status"] == 204
    await (await start_run("r", words(), settings=settings)).wait()
    sent = await answered(AGUIResponse("r", settings=settings))
    assert types_of(sent)[0] == "RUN_STARTED"
    assert frames_of(sent)[0]["threadId"] == "r"
    assert types_of(sent)[-1] == "RUN_FINISHED"


async def test_what_is_no_stream_passes_as_it_is(settings: Settings) -> None:
    async with RunPublisher("r", settings=settings, owner="user:1") as run:
        await run.emit("token", {"text": "It "})
        for response in (
            AGUIResponse("r", words(), settings=settings, owner="user:2"),
            AGUIResponse("r", settings=settings, owner="user:2"),
        ):
            sent = await answered(response)
            assert sent[0]["status"] == 403
            assert json.loads(text_of(sent))["code"] == "RUN_NOT_YOURS"
    sent = await answered(AGUIResponse("{", settings=settings))
    assert sent[0]["status"] == 400


async def test_heartbeats_pass_and_what_was_cut_has_no_end(key_prefix: str) -> None:
    settings = Settings(key_prefix=key_prefix, stream_heartbeat=0.05)
    gate = asyncio.Event()
    response = UIMessageStreamResponse("r", words(gate), settings=settings)
    async with Call(response, "/") as call:
        await until(lambda: "\n\n:" in text_of(call.sent))
        call.leave()
        await until(call.task.done)
        assert types_of(call.sent) == BEGUN
    gate.set()


async def test_events_that_are_gone_are_told(key_prefix: str) -> None:
    settings = Settings(key_prefix=key_prefix, stream_maxlen=10)
    async with RunPublisher("r", settings=settings) as run:
        for number in range(500):
            await run.emit("n", number)
    sent = await answered(UIMessageStreamResponse("r", words(), settings=settings))
    kinds = types_of(sent)
    assert kinds[:3] == ["start", "data-holdfast.gap", "data-n"]
    assert kinds[-3:] == ["data-n", *TEXT[-2:]]


async def test_a_run_that_was_begun_anew_is_told_as_such(settings: Settings) -> None:
    store = EventStore.from_settings(settings)
    await store.add("r", "token", {"text": "It "})
    response = AGUIResponse("r", settings=settings)
    async with Call(response, "/") as call:
        await until(lambda: "TEXT_MESSAGE_CONTENT" in types_of(call.sent))
        await store.delete("r")
        await store.add("r", "workflow_complete", {"output": None})
        await until(call.task.done, 20)
    assert types_of(call.sent)[3:] == ["CUSTOM", "TEXT_MESSAGE_END", "RUN_FINISHED"]
    assert frames_of(call.sent)[3]["name"] == "holdfast.reset"


async def test_nothing_is_resumed_while_nobody_can_say_what_there_is(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(redis_url=fresh_redis.url, key_prefix=key_prefix)
    fresh_redis.kill()
    sent = await answered(UIMessageStreamResponse("r", settings=settings))
    assert sent[0]["status"] == 503
    assert headers_of(sent)["retry-after"] == "2"


async def test_a_run_begun_here_is_told_through_an_outage(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    settings = Settings(redis_url=fresh_redis.url, redis_timeout=1, key_prefix=key_prefix)
    store = EventStore.from_settings(settings)
    away, back = asyncio.Event(), asyncio.Event()
    response = UIMessageStreamResponse("r", words(away, back), settings=settings)
    async with Call(response, "/") as call:
        await until(lambda: "text-delta" in types_of(call.sent))
        fresh_redis.freeze()
        away.set()
        await until(lambda: not store.available, 20)
        back.set()
        await until(lambda: types_of(call.sent)[-1] == "[DONE]", 20)
        fresh_redis.thaw()
    assert types_of(call.sent) == TEXT
    await until(lambda: store.available, 20)
    sent = await answered(UIMessageStreamResponse("r", words(), settings=settings))
    assert frames_of(sent) == frames_of(call.sent)
