"""A wrong start is told to the person who starts the server, whatever the server asks for."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from holdfast import SessionMiddleware
from holdfast.errors import ConfigurationError
from holdfast.runtime import runtime
from holdfast.settings import Settings
from holdfast.startup import StartError, await_redis, kept_or_raised, pass_lifespan

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Message, Receive, Scope, Send
    from tests.conftest import Serve

    from holdfast.testing import RedisServer

APP = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from holdfast import SessionMiddleware
app = Starlette(middleware=[Middleware(SessionMiddleware)])
"""
KEY = "a key of more than sixteen characters"


def wrong() -> int:
    raise ConfigurationError("HOLDFAST_X: wrong")


def test_without_a_loop_the_error_is_raised() -> None:
    assert kept_or_raised(lambda: 5) == 5
    with pytest.raises(ConfigurationError):
        kept_or_raised(wrong)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_while_a_loop_runs_the_error_is_kept(backend: str) -> None:
    async def build() -> object:
        return kept_or_raised(wrong)

    assert isinstance(anyio.run(build, backend=backend), StartError)


async def answered(app: StartError, scope: Scope) -> list[Message]:
    sent: list[Message] = []
    raises = pytest.raises if scope["type"] == "lifespan" else contextlib.suppress

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with raises(ConfigurationError):
        await app(scope, receive, send)
    return sent


@pytest.mark.anyio
async def test_every_scope_is_answered() -> None:
    app = StartError(ConfigurationError("HOLDFAST_X: wrong"))
    failed = await answered(app, {"type": "lifespan"})
    assert failed == [{"type": "lifespan.startup.failed", "message": "HOLDFAST_X: wrong"}]
    start, body = await answered(app, {"type": "http"})
    assert (start["status"], b"HOLDFAST" in body["body"]) == (503, False)
    start, _ = await answered(
        app, {"type": "websocket", "extensions": {"websocket.http.response": {}}}
    )
    assert start["type"] == "websocket.http.response.start"
    (close,) = await answered(app, {"type": "websocket"})
    assert close["type"] == "websocket.close"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_test_client_is_told_and_does_not_wait_for_ever(backend: str) -> None:
    app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key=KEY, path="nowhere")])
    with (
        pytest.raises(ConfigurationError, match="nowhere"),
        TestClient(app, backend=backend),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.anyio
async def test_redis_required_refuses_to_start_without_it(free_port: int) -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port}", redis_required=True)
    with pytest.raises(ConfigurationError, match=r"REDIS_REQUIRED.*refused"):
        await await_redis(runtime(settings))
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it must not be called")

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(ConfigurationError, match="REDIS_REQUIRED"):
        await pass_lifespan(app, runtime(settings), {"type": "lifespan"}, receive, send)
    assert sent[0]["type"] == "lifespan.startup.failed"


@pytest.mark.anyio
@pytest.mark.parametrize("word", ["complete", "failed"])
async def test_what_waits_is_written_before_the_server_hears_of_the_end(
    word: str, caplog: pytest.LogCaptureFixture
) -> None:
    default, told = runtime(Settings()), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        await send({"type": f"lifespan.shutdown.{word}"})

    async def send(message: Message) -> None:
        told.append(message["type"])

    async def flush() -> None:
        told.append("flushed")
        raise OSError("the disk is full")

    async def flush_default() -> None:
        told.append("default flushed")

    async def receive() -> Message:
        raise AssertionError("nobody asks")

    default.on_flush(flush_default)
    await pass_lifespan(app, default, {"type": "lifespan"}, receive, send, flush=flush)
    assert told == [
        "lifespan.startup.complete",
        "flushed",
        "default flushed",
        f"lifespan.shutdown.{word}",
    ]
    assert "could not be written at the shutdown" in caplog.text


@pytest.mark.anyio
async def test_redis_that_is_not_required_is_waited_for_and_no_more(
    free_port: int, redis: RedisServer
) -> None:
    await await_redis(runtime(Settings()))
    await await_redis(runtime(Settings(redis_url=f"redis://127.0.0.1:{free_port}")))
    there = runtime(Settings(redis_url=redis.url, redis_required=True))
    await await_redis(there)
    assert there.link is not None
    assert there.link.up


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_uvicorn_refuses_to_start_and_prints_why(
    serve: Serve, tmp_path: Path, lifespan: str
) -> None:
    (tmp_path / "wrong_app.py").write_text(APP)
    server = serve(
        tmp_path / "wrong_app.py",
        env={"HOLDFAST_SESSION_SAME_SITE": "none"},
        args=["--lifespan", lifespan],
        wait=False,
    )
    assert server.wait(20) != 0
    log = server.log()
    assert "HOLDFAST_SESSION_SAME_SITE=none needs HOLDFAST_SESSION_HTTPS_ONLY=true" in log
    assert "Traceback" not in log


def test_with_the_lifespan_off_every_request_is_503_and_the_log_says_why(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "wrong_app.py").write_text(APP)
    server = serve(
        tmp_path / "wrong_app.py",
        env={"HOLDFAST_SESSION_SAME_SITE": "none"},
        args=["--lifespan", "off"],
    )
    for _ in range(2):
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", server.url]
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        assert said.stdout == "503"
    assert server.log().count("Every request is answered 503") == 1


STREAMS = """
from starlette.applications import Starlette
from starlette.routing import Mount
from holdfast import EventStreamApp
app = Starlette(routes=[Mount("/streams", EventStreamApp())])
"""


def status(url: str) -> str:
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout


@pytest.mark.parametrize(("app", "path"), [(APP, "/"), (STREAMS, "/streams/runs/r/events?wait=0")])
def test_a_required_redis_is_required_without_a_lifespan_too(
    serve: Serve, tmp_path: Path, fresh_redis: RedisServer, app: str, path: str
) -> None:
    fresh_redis.kill()
    (tmp_path / "required_app.py").write_text(app)
    server = serve(
        tmp_path / "required_app.py",
        env={
            "HOLDFAST_REDIS_URL": fresh_redis.url,
            "HOLDFAST_REDIS_REQUIRED": "true",
            "HOLDFAST_SECRET_KEY": KEY,
            "HOLDFAST_STREAM_ACCESS": "open",
        },
        args=["--lifespan", "off"],
    )
    assert [status(server.url + path) for _ in range(2)] == ["503", "503"]
    assert server.log().count("HOLDFAST_REDIS_REQUIRED is true, but Redis is unavailable") == 1
    fresh_redis.start()
    deadline = time.monotonic() + 10
    while (said := status(server.url + path)) == "503" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert said == "404"


def test_streams_in_memory_are_told_once_and_refused_with_several_workers(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "memory_app.py").write_text(STREAMS)
    alone = serve(tmp_path / "memory_app.py")
    assert alone.log().count("Event streams are kept in the memory of this process") == 1
    several = serve(
        tmp_path / "memory_app.py",
        env={"WEB_CONCURRENCY": "2"},
        args=["--workers", "1"],
        wait=False,
    )
    assert several.wait(20) != 0
    assert "2 worker processes and no Redis" in several.log()
