"""Browsers and readers that write down what they see, and think nothing of it.

One that is turned away comes back as a browser would: a reader after a moment, a request not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
from tests.matrix.history import Act, CookieNews, Frame, Phase, Story
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

if TYPE_CHECKING:
    from collections.abc import Sequence

COOKIE = "session"
_GIVE_UP = 15.0
_AGAIN = 0.1
_PATHS = {
    "read": ("GET", "/me"),
    "steal": ("GET", "/me"),
    "free": ("GET", "/free"),
    "write": ("POST", "/write/{0}/{1}"),
    "login": ("POST", "/login/{1}"),
    "logout": ("POST", "/logout"),
    "rotate": ("POST", "/rotate"),
    "issue": ("POST", "/issue/{0}"),
    "consume": ("GET", "/consume/{0}"),
}


class Browser:
    """One browser: its cookies, and which processes have seen its session.

    Args:
        client: to ask by; it keeps no cookies itself.
        urls: of the processes.
        story: where all of it is written down.
    """

    def __init__(self, client: httpx.AsyncClient, urls: Sequence[str], story: Story) -> None:
        self._client = client
        self._urls = urls
        self.story = story
        self.phase: Phase = "before"
        self.cookies: dict[str, str] = {}
        self.old_cookies: dict[str, str] = {}
        self._known: set[int] = set()

    async def do(self, what: str, *arguments: str, at: int = 0) -> Act:
        """Ask for *what*; an old cookie is presented by ``steal``."""
        method, path = _PATHS[what]
        cookies = self.old_cookies if what == "steal" else self.cookies
        had_cookie, knows = COOKIE in cookies, at in self._known
        begun = time.monotonic()
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        answer: httpx.Response | None
        why = None
        try:
            answer = await self._client.request(
                method, self._urls[at] + path.format(*arguments), headers=headers
            )
        except httpx.HTTPError as error:
            answer, why = None, repr(error)
        seconds = time.monotonic() - begun
        act = Act(
            self.phase,
            what,
            0 if answer is None else answer.status_code,
            seconds,
            at,
            knows,
            had_cookie,
            "kept" if what == "steal" else self._take_cookies(answer),
            why or _json(answer),
            _argument(what, arguments),
        )
        self._learn(act)
        self.story.acts.append(act)
        return act

    def _learn(self, act: Act) -> None:
        served = act.done and not (act.what == "read" and act.body.get("available") is False)
        if served and act.what in {"read", "write", "login", "rotate"}:
            if act.cookie == "set" and act.what != "write":
                # The copies of others know only the cookie that was.
                self._known = set()
            self._known.add(act.at)

    def _take_cookies(self, answer: httpx.Response | None) -> CookieNews:
        news: CookieNews = "kept"
        for line in [] if answer is None else answer.headers.get_list("set-cookie"):
            name, _, rest = line.partition("=")
            value, _, attributes = rest.partition(";")
            if name == COOKIE:
                gone = not value or "max-age=0" in attributes.lower() or "1970" in attributes
                news = "deleted" if gone else "set"
                self.old_cookies = dict(self.cookies)
                if gone:
                    self.cookies.pop(COOKIE, None)
                    continue
            self.cookies[name] = value
        return news


def _argument(what: str, arguments: Sequence[str]) -> Any:
    if what in {"write", "login"}:
        return (arguments[0], arguments[1])
    return arguments[0] if arguments else None


def _json(answer: httpx.Response | None) -> Any:
    if answer is not None and answer.headers.get("content-type", "").startswith("application/json"):
        return answer.json()
    return None


async def emit(browser: Browser, run: str, owner: str, by: str, numbers: range, at: int) -> Act:
    """Have a process publish *numbers* as *by*, and write down what it said to that."""
    query = {"owner": owner, "by": by, "first": numbers.start, "count": len(numbers)}
    return await _post(browser, run, query, (by, list(numbers)), at)


async def end(browser: Browser, run: str, owner: str, at: int) -> Act:
    """Have a process end the run."""
    query = {"owner": owner, "by": "end", "first": 1, "count": 0, "end": 1}
    return await _post(browser, run, query, ("end", []), at)


async def _post(browser: Browser, run: str, query: Any, argument: Any, at: int) -> Act:
    begun = time.monotonic()
    url, why = f"{browser._urls[at]}/emit/{run}", None
    try:
        status = (await browser._client.post(url, params=query)).status_code
    except httpx.HTTPError as error:
        status, why = 0, repr(error)
    seconds = time.monotonic() - begun
    act = Act(browser.phase, "emit", status, seconds, at, body=why, argument=argument)
    browser.story.acts.append(act)
    return act


class Reader:
    """One reader of a run, by SSE or WebSocket, who comes back until told the end.

    Args:
        browser: whose cookie it has.
        run: what it reads.
        at: the processes it goes to, in turn.
        frames: where it writes down what it is told.
    """

    def __init__(self, browser: Browser, run: str, at: Sequence[int], frames: list[Frame]) -> None:
        self._browser = browser
        self._path = f"/streams/runs/{run}/events"
        self._at = at
        self._turn = 0
        self._last_id = ""
        self._kind = ""
        self.frames = frames
        self._task: asyncio.Task[None] | None = None

    def start(self, kind: str) -> None:
        """Begin to read, by ``sse`` or ``ws``."""
        self._kind = kind
        self._task = asyncio.create_task(self._follow(kind))

    async def let_go(self) -> None:
        """Cut its connection off, and have it come back, to the next process."""
        await self.aclose()
        self.start(self._kind)

    async def opened(self) -> None:
        """Wait until it has an answer."""
        await self._wait(lambda: bool(self.frames))

    async def over(self) -> None:
        """Wait until it was told the end, or turned away, and leave."""
        await self._wait(lambda: self._task is not None and self._task.done())
        await self.aclose()

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _wait(self, condition: Any) -> None:
        deadline = time.monotonic() + _GIVE_UP
        while not condition() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def _follow(self, kind: str) -> None:
        read = self._sse if kind == "sse" else self._ws
        while not self._is_over():
            at = self._at[self._turn % len(self._at)]
            self._turn += 1
            with contextlib.suppress(httpx.HTTPError, OSError, WebSocketException):
                await read(self._browser._urls[at])
            await asyncio.sleep(_AGAIN)

    def _is_over(self) -> bool:
        return bool(self.frames) and self.frames[-1].kind in {"end", "denied", "refused"}

    async def _sse(self, url: str) -> None:
        headers = {"cookie": _cookie_of(self._browser)}
        if self._last_id:
            headers["last-event-id"] = self._last_id
        client = self._browser._client
        async with client.stream("GET", f"{url}{self._path}/stream", headers=headers) as answer:
            if answer.status_code == 204:
                self.frames.append(Frame("end", status=204))
            elif answer.status_code != 200:
                self.frames.append(Frame("refused", status=answer.status_code))
            else:
                self.frames.append(Frame("opened", status=200))
                await self._read_blocks(answer)

    async def _read_blocks(self, answer: httpx.Response) -> None:
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
                continue
            if "id" in fields:
                self._last_id = fields["id"]
            if "data" in fields:
                self._take(fields.get("event", "message"), fields["data"])
            fields = {}

    def _take(self, kind: str, data: str) -> None:
        if kind == "t":
            body = json.loads(data)
            self.frames.append(Frame("event", body["p"], body["n"], id=self._last_id))
        elif kind == "workflow_complete":
            self.frames.append(Frame("end"))
        elif kind == "holdfast.denied":
            self.frames.append(Frame("denied", status=401))
        elif kind.startswith("holdfast."):
            self.frames.append(Frame(kind.removeprefix("holdfast.")))

    async def _ws(self, url: str) -> None:
        address = f"ws{url.removeprefix('http')}{self._path}/ws"
        query = f"?last_id={self._last_id}" if self._last_id else ""
        headers = {"Cookie": _cookie_of(self._browser)}
        try:
            async with connect(
                address + query, additional_headers=headers, proxy=None, open_timeout=10
            ) as socket:
                self.frames.append(Frame("opened", status=101))
                async for text in socket:
                    self._take_frame(json.loads(text))
                    if self._is_over():
                        return
                if socket.close_code in {4401, 4403, 1008, 4404, 4410}:
                    self.frames.append(Frame("denied", status=401))
        except InvalidStatus as refused:
            self.frames.append(Frame("refused", status=refused.response.status_code))

    def _take_frame(self, frame: dict[str, Any]) -> None:
        if frame["kind"] == "event":
            self._last_id = frame["id"]
            self._take(frame["type"], json.dumps(frame["data"]))
        elif frame["kind"] in {"gap", "reset", "end"}:
            self.frames.append(Frame(frame["kind"]))


def _cookie_of(browser: Browser) -> str:
    return "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
