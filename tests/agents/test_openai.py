"""OpenAI's own client, of a server with its interface, is the source of a run."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest
from openai import AsyncOpenAI, OpenAI
from starlette.applications import Starlette
from starlette.routing import Route

from holdfast import RunPublisher, RunResponse, Settings, SyncRunPublisher, request_stop, start_run
from holdfast.agents.openai import ModelError, openai_events, openai_events_sync

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.agents.conftest import Log
    from tests.support.process import ServerProcess

pytestmark = pytest.mark.anyio

MESSAGES: Any = [{"role": "user", "content": "How is the weather?"}]
USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
CHAT = "chatcmpl-1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    from tests.support.process import ServerProcess, uvicorn_command

    log = tmp_path_factory.mktemp("model") / "server.log"
    server = ServerProcess(uvicorn_command("tests.agents.openai_server:app", ()), log, {})
    server.start(wait=True)
    yield server
    server.close()


@pytest.fixture
async def client(model: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{model.url}/v1", api_key="k", max_retries=0) as client:
        yield client


def counted(model: ServerProcess) -> Any:
    return httpx.get(f"{model.url}/counted", trust_env=False).json()


def chat(client: Any, how: str = "fake", **more: Any) -> Any:
    create = client.chat.completions.create
    return create(model=how, messages=MESSAGES, stream=True, **more)


def respond(client: Any, how: str = "fake") -> Any:
    return client.responses.create(model=how, input="How is the weather?", stream=True)


async def collected(events: Any) -> list[tuple[str, Any]]:
    return [event async for event in events]


def text(message: str) -> list[tuple[str, Any]]:
    words = ("It ", "is ", "sunny.")
    return [("token", {"text": word, "message": message}) for word in words]


def call(message: str) -> list[tuple[str, Any]]:
    about = {"call": "call_1", "tool": "weather"}
    return [
        ("tool_call_delta", {**about, "text": '{"city', "message": message}),
        ("tool_call_delta", {**about, "text": '":"Bergen"}', "message": message}),
        ("tool_call", {**about, "arguments": {"city": "Bergen"}, "message": message}),
    ]


def thought(message: str) -> list[tuple[str, Any]]:
    return [("thinking", {"text": "They ask of the weather.", "message": message})]


def framed(message: str, inner: list[tuple[str, Any]], reason: str) -> list[tuple[str, Any]]:
    ended = {"message": message, "reason": reason, "usage": USAGE}
    started = ("model_started", {"message": message, "model": "fake"})
    return [started, *inner, ("model_finished", ended)]


async def test_chat_completions(client: AsyncOpenAI) -> None:
    for how, inner, reason in [
        ("fake", text(CHAT), "stop"),
        ("tools", call(CHAT), "tool_calls"),
        ("reasons", [*thought(CHAT), *text(CHAT)], "stop"),
    ]:
        events = await collected(openai_events(chat(client, how)))
        assert events == framed(CHAT, inner, reason)


async def test_the_responses_interface(client: AsyncOpenAI) -> None:
    searched = {"id": "ws_1", "type": "web_search_call", "status": "completed"}
    for how, inner in [
        ("fake", text("resp_1")),
        ("tools", call("resp_1")),
        ("reasons", [*thought("resp_1"), *text("resp_1")]),
    ]:
        events = await collected(openai_events(respond(client, how)))
        tool = [event for event in events if event[0] == "output_item"]
        events = [event for event in events if event[0] != "output_item"]
        assert events == framed("resp_1", inner, "completed")
        if how == "tools":
            ((_, data),) = tool
            assert data["item"].items() >= searched.items()


async def test_several_choices_are_told_apart(client: AsyncOpenAI) -> None:
    events = await collected(openai_events(chat(client, "two", n=2)))
    assert [(kind, data["message"]) for kind, data in events] == [
        ("model_started", CHAT),
        ("token", CHAT),
        ("model_started", f"{CHAT}:1"),
        ("token", f"{CHAT}:1"),
        ("model_finished", CHAT),
        ("model_finished", f"{CHAT}:1"),
    ]


async def test_the_streaming_helpers_say_each_thing_once(client: AsyncOpenAI) -> None:
    events = openai_events(lambda: client.chat.completions.stream(model="fake", messages=MESSAGES))
    assert await collected(events) == framed(CHAT, text(CHAT), "stop")
    unread = openai_events(lambda: client.responses.stream(model="fake", input="?"))
    await unread.aclose()
    events = openai_events(lambda: client.responses.stream(model="fake", input="?"))
    assert await collected(events) == framed("resp_1", text("resp_1"), "completed")


async def test_a_function_and_an_awaited_stream_do_too(client: AsyncOpenAI) -> None:
    expected = framed(CHAT, text(CHAT), "stop")
    assert await collected(openai_events(lambda: chat(client))) == expected
    assert await collected(openai_events(await chat(client))) == expected


def test_without_a_loop(model: ServerProcess, settings: Settings, log: Log) -> None:
    with OpenAI(base_url=f"{model.url}/v1", api_key="k") as client:
        with SyncRunPublisher("r", settings=settings) as run:
            for kind, data in openai_events_sync(chat(client)):
                run.emit(kind, data)
        lazily = list(openai_events_sync(lambda: respond(client)))
        helper = client.responses.stream(model="fake", input="?")
        assert list(openai_events_sync(helper)) == lazily
    assert lazily == framed("resp_1", text("resp_1"), "completed")
    events = asyncio.run(log.events())
    expected = [*framed(CHAT, text(CHAT), "stop"), ("workflow_complete", {"output": None})]
    assert [(event.type, event.data) for event in events] == expected


async def test_an_endpoint_asks_the_model_once(
    model: ServerProcess, client: AsyncOpenAI, settings: Settings
) -> None:
    async def answer(request: Any) -> RunResponse:
        return RunResponse("r", openai_events(chat(client)), settings=settings)

    before = len(counted(model)["asked"])
    transport = httpx.ASGITransport(Starlette(routes=[Route("/", answer)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        first, second = await http.get("/"), await http.get("/")
    assert "event: token" in first.text
    assert [line for line in first.text.split("\n") if not line.startswith("retry")] == [
        line for line in second.text.split("\n") if not line.startswith("retry")
    ]
    assert len(counted(model)["asked"]) == before + 1


async def test_a_stop_closes_the_stream_of_the_model(
    model: ServerProcess, client: AsyncOpenAI, settings: Settings, log: Log
) -> None:
    before = len(counted(model)["left"])
    run = await start_run("r", openai_events(chat(client, "endless")), settings=settings)
    async with asyncio.timeout(30):
        while "token" not in await log.types():
            await asyncio.sleep(0.01)
        await request_stop("r", settings=settings)
        assert (await run.wait()).type == "run_stopped"
        while len(counted(model)["left"]) == before:
            await asyncio.sleep(0.01)


async def test_a_publisher_that_refuses_an_event_closes_the_stream(
    model: ServerProcess, client: AsyncOpenAI, settings: Settings
) -> None:
    before = len(counted(model)["left"])
    events = openai_events(chat(client, "endless"))
    assert (await anext(events))[0] == "model_started"
    await events.aclose()
    async with asyncio.timeout(30):
        while len(counted(model)["left"]) == before:
            await asyncio.sleep(0.01)


async def test_what_is_not_read_is_closed(client: AsyncOpenAI) -> None:
    awaited = await chat(client)
    await openai_events(awaited).aclose()
    assert awaited.response.is_closed
    asked = chat(client)
    await openai_events(asked).aclose()
    with pytest.raises(RuntimeError, match="already awaited"):
        await asked


@pytest.mark.parametrize("ask", [chat, respond], ids=["chat", "responses"])
async def test_a_failure_ends_the_run_with_what_the_model_said(
    ask: Any, client: AsyncOpenAI, settings: Settings, log: Log
) -> None:
    run = await start_run("r", openai_events(ask(client, "fails")), settings=settings)
    end = await run.wait()
    assert end.type == "workflow_error"
    assert end.data["error"]["message"] == "the model is overloaded"


async def test_an_error_event_is_a_failure(client: AsyncOpenAI) -> None:
    with pytest.raises(ModelError, match="the line is cut"):
        await collected(openai_events(respond(client, "breaks")))


async def test_a_model_that_cannot_be_reached_ends_the_run(
    free_port: int, settings: Settings
) -> None:
    base = f"http://127.0.0.1:{free_port}/v1"
    async with AsyncOpenAI(base_url=base, api_key="k", max_retries=0) as client:
        run = await start_run("r", openai_events(chat(client)), settings=settings)
        end = await run.wait()
    assert end.data["error"]["type"] == "APIConnectionError"


async def test_arguments_that_are_no_json_are_told_as_they_are() -> None:
    async def stream() -> AsyncIterator[Any]:
        function = SimpleNamespace(name="t", arguments="{oops")
        piece = SimpleNamespace(index=0, id=None, function=function)
        delta = SimpleNamespace(content=None, tool_calls=[piece])
        choice = SimpleNamespace(index=0, delta=delta, finish_reason=None)
        yield SimpleNamespace(id="c", model="m", choices=[choice])
        yield SimpleNamespace(type="of.another.kind")

    events = await collected(openai_events(stream()))
    data = dict(events)["tool_call"]
    assert (data["call"], data["arguments"]) == ("c:0", "{oops")
    assert events[-1] == ("model_finished", {"message": "c"})


@pytest.mark.parametrize("index", [0, None])
async def test_calls_that_a_server_does_not_count_are_told_apart(index: int | None) -> None:
    pieces = [
        ("a", "weather", '{"at":'),
        (None, None, '"Rome"}'),
        ("b", "weather", '{"at":'),
        ("b", "weather", '"Oslo"}'),  # some say the name with each piece
        ("random", None, " "),  # and some make an id for each
    ]

    async def stream() -> AsyncIterator[Any]:
        for identity, name, text in pieces:
            function = SimpleNamespace(name=name, arguments=text)
            piece = SimpleNamespace(index=index, id=identity, function=function)
            delta = SimpleNamespace(content=None, tool_calls=[piece])
            choice = SimpleNamespace(index=0, delta=delta, finish_reason=None)
            yield SimpleNamespace(id="c", model="m", choices=[choice])

    events = await collected(openai_events(stream()))
    told = [data for kind, data in events if kind == "tool_call"]
    assert [(data["call"], data["arguments"]) for data in told] == [
        ("a", {"at": "Rome"}),
        ("b", {"at": "Oslo"}),
    ]


def odd(delta: Any, **more: Any) -> Any:
    """A chunk of a server that is not OpenAI's."""
    choice = {"index": 0, "delta": delta, "finish_reason": None, **more.pop("choice", {})}
    return {"id": "c", "model": "m", "choices": [choice], **more}


def called(**piece: Any) -> Any:
    return {"tool_calls": [piece]}


def told(*inner: tuple[str, Any], message: str = "c", **ended: Any) -> list[tuple[str, Any]]:
    started = {"message": message, "model": "m"}
    spoken = [(kind, {**data, "message": message}) for kind, data in inner]
    return [("model_started", started), *spoken, ("model_finished", {"message": message, **ended})]


def call_of(arguments: Any, *texts: str, call: str = "x") -> list[tuple[str, Any]]:
    about = {"call": call, "tool": "t"}
    pieces = [("tool_call_delta", {**about, "text": text}) for text in texts]
    return [*pieces, ("tool_call", {**about, "arguments": arguments})]


STOP = {"choice": {"finish_reason": "stop"}}
SPENT = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
HI = ("token", {"text": "hi"})
NAMED = {"name": "t", "arguments": ""}
ODD: dict[str, tuple[list[Any], list[tuple[str, Any]]]] = {
    "arguments that are no text": (
        [odd(called(index=0, id="x", function={"name": "t", "arguments": {"a": 1}}))],
        told(*call_of({"a": 1}, '{"a": 1}')),
    ),
    "a name that comes later": (
        [odd(called(index=0, id="x")), odd(called(index=0, function={**NAMED, "arguments": "[]"}))],
        told(*call_of([], "[]")),
    ),
    "calls without ids": (
        [odd(called(index=0, function={"name": "t", "arguments": text})) for text in ("{}", "[1]")],
        told(
            *call_of({}, "{}", call="c:0")[:1],
            *call_of([1], "[1]", call="c:1")[:1],
            *call_of({}, call="c:0"),
            *call_of([1], call="c:1"),
        ),
    ),
    "the one call of before": (
        [odd({"function_call": NAMED}), odd({"function_call": {"arguments": "{}"}})],
        told(*call_of({}, "{}", call="c:0")),
    ),
    "the one call of before, in the next answer": (
        [
            *(odd({"content": "hi"}), odd({}, **STOP)),
            odd({"function_call": {**NAMED, "arguments": "{}"}}, id="d"),
        ],
        [*told(HI, reason="stop"), *told(*call_of({}, "{}", call="d:0"), message="d")],
    ),
    "a tool without a schema": (
        [odd(called(index=0, id="x", type="custom", custom={"name": "t", "input": "ls"}))],
        told(*call_of("ls", "ls")),
    ),
    "parts with a type": (
        [
            odd({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
            odd({"content": [{"type": "text", "text": "hi"}, {"type": "reference"}]}),
        ],
        told(("thinking", {"text": "hm"}), HI),
    ),
    "a use without choices": (
        [odd({"content": "hi"}), {"id": "c", "choices": None, "usage": SPENT}],
        told(HI, usage=USAGE),
    ),
    "pieces that are null": (
        [odd({"content": "hi", "tool_calls": [None]}), odd(None), odd({"content": 7})],
        told(HI),
    ),
    "the next answer": (
        [
            *(odd({"content": "hi"}), odd({}, **STOP), {"id": "c", "choices": [], "usage": SPENT}),
            *(odd({"role": "assistant"}, id="d"), odd({"content": "hi"}, id="d")),
        ],
        [*told(HI, reason="stop", usage=USAGE), *told(HI, message="d")],
    ),
    "a name for each chunk": (
        [odd({"content": "hi"}), odd({"content": "hi"}, id="d"), odd({}, id="e", **STOP)],
        told(HI, HI, reason="stop"),
    ),
}


async def answers(chunks: list[Any]) -> list[tuple[str, Any]]:
    """What OpenAI's client makes of *chunks*, as events."""
    body = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks)
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, text=body))
    http = httpx2.AsyncClient(transport=transport)
    async with AsyncOpenAI(base_url="http://test", api_key="k", http_client=http) as client:
        ask = respond if "type" in chunks[0] else chat
        return await collected(openai_events(ask(client)))


@pytest.mark.parametrize(("chunks", "expected"), ODD.values(), ids=ODD.keys())
async def test_what_servers_say_otherwise_is_understood(chunks: list[Any], expected: Any) -> None:
    assert await answers(chunks) == expected


@pytest.mark.parametrize("name", [None, "", "left out"])
async def test_an_answer_without_a_name_is_given_one(name: str | None) -> None:
    chunks = [odd({"content": "hi"}, id=name, model=name) for _ in range(2)]
    if name == "left out":
        chunks = [{"choices": each["choices"]} for each in chunks]
    first, second = await answers(chunks), await answers(chunks)
    (message,) = {data["message"] for _, data in first}
    assert [kind for kind, _ in first] == ["model_started", "token", "token", "model_finished"]
    assert first[0][1] == {"message": message}
    assert message not in {None, "", "None", second[0][1]["message"]}


async def test_responses_that_are_not_read_from_their_beginning() -> None:
    said: Any = {"type": "response.output_text.delta", "delta": "hi"}
    whole = {"id": "r", "status": "completed"}
    events = await answers([said, {"type": "response.completed", "response": whole}])
    (message,) = {data["message"] for _, data in events}
    assert message
    asked = [{"type": f"response.{how}", "response": {"id": "r"}} for how in ("queued", "created")]
    assert (await answers([*asked, said]))[:2] == [
        ("model_started", {"message": "r"}),
        ("token", {"text": "hi", "message": "r"}),
    ]


async def test_answers_that_are_named_alike_are_told_apart() -> None:
    def response(step: str, **more: Any) -> Any:
        return {"type": f"response.{step}", "response": {"id": "r", "model": "m", **more}}

    said: Any = {"type": "response.output_text.delta", "delta": "hi"}
    one = [response("created"), response("in_progress"), said, response("completed", status=None)]
    assert await answers(one * 2) == [*told(HI, message="r"), *told(HI, message="r:2")]


async def test_the_input_of_a_custom_tool_is_its_call() -> None:
    item = {"id": "i", "type": "custom_tool_call", "call_id": "x", "name": "t", "input": "7"}
    events = await answers(
        [
            {"type": "response.created", "response": {"id": "c", "model": "m"}},
            {"type": "response.output_item.added", "item": {**item, "input": ""}},
            {"type": "response.custom_tool_call_input.delta", "item_id": "i", "delta": "7"},
            {"type": "response.output_item.done", "item": item},
        ]
    )
    assert events == told(*call_of("7", "7"))[:-1]


async def test_a_choice_without_a_delta_says_how_it_ended() -> None:
    async def stream() -> AsyncIterator[Any]:
        said = SimpleNamespace(content="kelp", tool_calls=None)
        for delta, reason in ((said, None), (None, "stop")):
            choice = SimpleNamespace(index=0, delta=delta, finish_reason=reason)
            yield SimpleNamespace(id="c", model="m", choices=[choice])

    events = await collected(openai_events(stream()))
    assert events[1:] == [
        ("token", {"text": "kelp", "message": "c"}),
        ("model_finished", {"message": "c", "reason": "stop"}),
    ]


async def test_the_default_size_of_an_event_is_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stream() -> AsyncIterator[Any]:
        delta = SimpleNamespace(content="kelp " * 100, tool_calls=None)
        choice = SimpleNamespace(index=0, delta=delta, finish_reason="stop")
        yield SimpleNamespace(id="c", model="m", choices=[choice])

    monkeypatch.setenv("HOLDFAST_STREAM_MAX_EVENT_BYTES", "300")
    async with RunPublisher("r") as run:
        async for kind, data in openai_events(stream()):
            await run.emit(kind, data)
    monkeypatch.undo()
