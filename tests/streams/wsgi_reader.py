"""One who reads an event stream from a WSGI app, in a thread as servers have them."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from tests.frameworks.wsgi_client import environ_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self
    from wsgiref.types import WSGIApplication, WSGIEnvironment


def request(path: str, method: str = "GET", body: bytes = b"", **more: Any) -> WSGIEnvironment:
    """Return the environ of a request; *more* is put into it, ``query`` and ``headers`` too."""
    path, _, query = path.partition("?")
    headers = {
        "HTTP_" + name.upper().replace("-", "_"): value
        for name, value in more.pop("headers", {}).items()
    }
    if body:
        more = {"CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/json", **more}
    return {
        **environ_of(path),
        "REQUEST_METHOD": method,
        "QUERY_STRING": query,
        "wsgi.input": io.BytesIO(body),
        **headers,
        **more,
    }


def until(condition: Callable[[], object], told: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"it never came to that: {told()}"
        time.sleep(0.005)


class Reader(threading.Thread):
    """Reads one stream to its end, or until it is told to leave.

    Attributes:
        parts: what came.
        status: of the answer.
        over: the server is done with the answer.
        error: what the app has raised.
    """

    def __init__(self, app: WSGIApplication, path: str, **more: Any) -> None:
        super().__init__(daemon=True)
        self.parts: list[bytes] = []
        self.status = ""
        self.headers: dict[str, str] = {}
        self.over = False
        self.error: BaseException | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self._app, self._environ = app, request(path, **more)
        self._leaving = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def run(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - for the test to look at
            self.error = error
        finally:
            self.over = True

    def _read(self) -> None:
        answer = self._app(self._environ, self._start)
        try:
            for part in answer:
                self.parts.append(part)
                self.go_on.wait(20)
                if self._leaving:
                    break
        finally:
            getattr(answer, "close", lambda: None)()

    def leave(self) -> None:
        """Leave with the next part, as one whose connection is found broken by a write."""
        self._leaving = True

    def until(self, condition: Callable[[Reader], object]) -> None:
        until(lambda: condition(self), lambda: (self.status, self.text))

    @property
    def text(self) -> str:
        return b"".join(self.parts).decode()

    @property
    def events(self) -> list[Any]:
        """The data of each event."""
        lines = self.text.split("\n")
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]

    @property
    def ids(self) -> list[str]:
        return [line[4:] for line in self.text.split("\n") if line.startswith("id: ")]

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self.status, self.headers = status, dict(headers)
        return self.parts.append
