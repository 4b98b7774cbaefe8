"""Other people's clients, each through one story: history, live, a cut network, the end.

All of them have every event once and in order, and none asks again when the run is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import httpx
import httpx_sse
import pytest
import websockets
from tests.streams.clients import client, until

from holdfast.testing import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from selenium.webdriver import Chrome
    from tests.conftest import Serve
    from tests.support.process import ServerProcess

ENV = {
    "HOLDFAST_STREAM_ACCESS": "open",
    "HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more",
    "HOLDFAST_STREAM_RETRY": "0.1",
    "HOLDFAST_STREAM_HEARTBEAT": "0.5",
}
Seen: TypeAlias = "list[tuple[str, Any]]"
NPM_CLIENT = "eventsource@5.1.5"


class Client(Protocol):
    """A client that follows the run ``r`` of a server, in the background."""

    def events(self) -> Seen:
        """Type and data of what has come."""

    def stopped(self) -> bool:
        """Whether it has given up, or knows that the run is over."""


class Story:
    """A server behind a network that fails, and what happens to whoever reads from it."""

    def __init__(self, server: ServerProcess, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.base = f"http://127.0.0.1:{proxy.port}"
        self.sse = f"{self.base}/streams/runs/r/events/stream"
        self.ws = f"ws://127.0.0.1:{proxy.port}/streams/runs/r/events/ws"

    async def emit(self, query: str) -> None:
        async with client() as http:
            (await http.post(f"{self.server.url}/emit/r?{query}")).raise_for_status()

    def requests(self) -> int:
        return len(re.findall(r"/runs/r/events/(?:stream|ws)", self.server.log()))

    async def tell(self, reader: Client) -> None:
        """Let it happen, and see that *reader* missed and doubled nothing."""

        async def seen(count: int) -> None:
            await until(lambda: len(reader.events()) >= count, 20, lambda: str(reader.events()))

        await seen(5)
        await self.emit("first=6&count=3")
        await seen(8)
        accepted = self.proxy.accepted
        self.proxy.cut()
        await self.emit("first=9&count=2")
        await seen(10)
        assert self.proxy.accepted > accepted, "it was not cut off"
        self.proxy.cut(reset=True)
        await self.emit("first=11&count=1&end=1")
        await seen(12)
        await until(reader.stopped, 20)
        asked = self.requests()
        await asyncio.sleep(0.4)  # some retries long: now it would ask again
        assert self.requests() == asked, "it asks again although the run is over"
        *events, last = reader.events()
        assert events == [("t", {"n": n}) for n in range(1, 12)]
        assert last == ("workflow_complete", {"output": None})


@pytest.fixture
async def story(serve: Serve) -> AsyncIterator[Story]:
    server = serve("tests.interop.client_page:app", env=ENV)
    with FaultProxy("127.0.0.1", server.port) as proxy:
        made = Story(server, proxy)
        await made.emit("count=5")
        yield made


# -- npm's eventsource


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The client as npm installs it, kept for the next time."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed: apt-get install nodejs npm")
    kept = Path(tempfile.gettempdir()) / f"holdfast-tests-{os.getuid()}-{NPM_CLIENT}"
    if not kept.exists():
        fresh = Path(tempfile.mkdtemp())
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", NPM_CLIENT]
        done = subprocess.run(command, cwd=fresh, capture_output=True, check=False, timeout=60)
        if done.returncode:
            pytest.skip(f"npm could not install {NPM_CLIENT}: {done.stderr[-200:]!r}")
        try:
            fresh.rename(kept)
        except OSError:  # another process was quicker
            shutil.rmtree(fresh)
    return kept / "node_modules"


class Program:
    """A client that is a program of its own, and prints a line of JSON for whatever comes."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def lines(self) -> list[dict[str, Any]]:
        text = self._output.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def events(self) -> Seen:
        return [(line["type"], line["data"]) for line in self.lines() if "type" in line]

    def stopped(self) -> bool:
        # With nothing left to do, node ends by itself.
        return {"closed": 204} in self.lines() and self.process.poll() == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


async def test_npm_eventsource(story: Story, node_modules: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules)
    script = shutil.copy(Path(__file__).with_name("follow.mjs"), tmp_path)
    with contextlib.closing(Program(["node", str(script), story.sse], tmp_path)) as program:
        await story.tell(program)


# -- Python: what follows is what a user of these libraries writes


class Background:
    """A client that is a coroutine here."""

    def __init__(self, follow: Callable[[str, Seen], Coroutine[Any, Any, None]], url: str) -> None:
        self._seen: Seen = []
        self._task = asyncio.create_task(follow(url, self._seen))

    def events(self) -> Seen:
        return self._seen

    def stopped(self) -> bool:
        return self._task.done() and self._task.exception() is None

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def follow_by_httpx_sse(url: str, seen: Seen) -> None:
    last_id, delay = "", 2.0
    async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=40), trust_env=False) as http:
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            try:
                async with httpx_sse.aconnect_sse(http, "GET", url, headers=headers) as source:
                    if source.response.status_code == 204:
                        return
                    source.response.raise_for_status()
                    async for event in source.aiter_sse():
                        last_id = event.id or last_id
                        delay = event.retry / 1000 if event.retry is not None else delay
                        if event.data:
                            seen.append((event.event, json.loads(event.data)))
            except httpx.TransportError:
                pass
            await asyncio.sleep(delay)


async def follow_by_websockets(url: str, seen: Seen) -> None:
    last_id = ""
    while True:
        try:
            async with websockets.connect(f"{url}?last_id={last_id}", proxy=None) as socket:
                async for text in socket:
                    frame = json.loads(text)
                    if frame["kind"] == "event":
                        last_id = frame["id"]
                        seen.append((frame["type"], frame["data"]))
                if socket.close_code == 1000:
                    return
        except (OSError, websockets.ConnectionClosed, websockets.InvalidHandshake):
            pass
        await asyncio.sleep(0.1)


async def test_httpx_sse(story: Story) -> None:
    async with contextlib.aclosing(Background(follow_by_httpx_sse, story.sse)) as reader:
        await story.tell(reader)


async def test_websockets(story: Story) -> None:
    async with contextlib.aclosing(Background(follow_by_websockets, story.ws)) as reader:
        await story.tell(reader)


# -- the shell

# Only what ended with its empty line has come: a cut may be anywhere.
CURL = r"""
while :; do
    last=$(awk '/~$/ {id = ""} /^id: / {id = $2} /^$/ && id {last = id} END {print last}' "$2")
    echo '~' >> "$2"
    status=$(curl -sN -w '%{stderr}%{http_code}' ${last:+-H "Last-Event-ID: $last"} "$1" \
        2>&1 >> "$2")
    [ "$status" = 204 ] && exit 0
    sleep 0.1
done
"""


class Curl:
    """``curl -N``, called again with the last id whenever it ends."""

    def __init__(self, url: str, folder: Path) -> None:
        self._output = folder / "output"
        self._output.touch()
        self._process = subprocess.Popen(["sh", "-c", CURL, "sh", url, str(self._output)])

    def events(self) -> Seen:
        found = re.findall(r"^event: (\S+)\ndata: (.*)\n\n", self._output.read_text(), re.MULTILINE)
        return [(kind, json.loads(data)) for kind, data in found]

    def stopped(self) -> bool:
        return self._process.poll() == 0

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


async def test_curl(story: Story, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed: apt-get install curl")
    with contextlib.closing(Curl(story.sse, tmp_path)) as reader:
        await story.tell(reader)


# -- Chromium: its own EventSource and WebSocket, and nothing of ours in the page

NATIVE = {
    "sse": """
        const source = new EventSource(arguments[0]);
        for (const type of ["t", "workflow_complete", "holdfast.gap", "holdfast.reset"]) {
          source.addEventListener(type, (e) => native.push([e.type, JSON.parse(e.data)]));
        }
        window.is_closed = () => source.readyState === EventSource.CLOSED;
    """,
    "ws": """
        let last = "", over = false;
        const open = () => {
          const socket = new WebSocket(`${url}?last_id=${last}`);
          socket.onmessage = (e) => {
            const frame = JSON.parse(e.data);
            if (frame.kind !== "event") return;
            last = frame.id;
            native.push([frame.type, frame.data]);
          };
          socket.onclose = (e) => (e.code === 1000 ? (over = true) : setTimeout(open, 100));
        };
        open();
        window.is_closed = () => over;
    """,
}


class Chromium:
    def __init__(self, driver: Chrome, base: str, transport: str, url: str) -> None:
        self._driver = driver
        driver.get(f"{base}/wrong")
        driver.execute_script(
            f"window.native = []; const url = arguments[0]; {NATIVE[transport]}", url
        )

    def events(self) -> Seen:
        return [(kind, data) for kind, data in self._driver.execute_script("return native")]

    def stopped(self) -> bool:
        return bool(self._driver.execute_script("return is_closed()"))


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("transport", NATIVE)
async def test_chromium(story: Story, browser: Chrome, transport: str) -> None:
    await story.tell(Chromium(browser, story.base, transport, getattr(story, transport)))
