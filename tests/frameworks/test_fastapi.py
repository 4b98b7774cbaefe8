"""What the page of FastAPI and Starlette says, with the files that it has its reader save."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.testclient import TestClient
from tests.support.process import ROOT
from websockets.sync.client import connect

from holdfast import SessionMiddleware, SessionUnavailable, Settings, get_session

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.responses import Response
    from tests.conftest import Serve

    from holdfast.testing import RedisServer

pytest.importorskip("fastapi")

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

PAGE = ROOT / "docs" / "frameworks" / "fastapi.md"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        (tmp_path / block.split("\n", 1)[0].removeprefix("# ")).write_text(block)
    return tmp_path


@pytest.mark.slow
def test_the_shop_of_the_page_does_what_it_says(
    serve: Serve, files: Path, redis: RedisServer, key_prefix: str
) -> None:
    env = {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_SECRET_KEY": "the key that the shop is given",
        # A busy machine is slow, not away.
        "HOLDFAST_REDIS_TIMEOUT": "10",
    }
    server = serve(files / "shop.py", env=env)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.post("/login/ada").json() == {"logins": 1}
        client.post("/order").raise_for_status()
        known = client.get("/")
        assert known.json() == {
            "user_id": "ada",
            "logins": 1,
            "orders": ["tea"],
            "ordered": True,
        }
        assert "set-cookie" not in known.headers
        assert client.get("/streams/livez").status_code == 200
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    address = server.url.replace("http", "ws") + "/socket"
    with connect(address, additional_headers={"Cookie": cookie}) as socket:
        assert json.loads(socket.recv(timeout=30))["user_id"] == "ada"


@pytest.mark.slow
def test_the_tests_of_the_page_pass(files: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    env = {**os.environ, "PYTHONPATH": str(files), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=files, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_middleware_inside_and_a_mounted_application_see_the_same_session() -> None:
    app = FastAPI()

    @app.middleware("http")
    async def count(request: Request, call_next: object) -> Response:
        request.session["seen"] = request.session.get("seen", 0) + 1
        response: Response = await call_next(request)  # type: ignore[operator]
        return response

    inner = FastAPI()
    inner.add_middleware(SessionMiddleware, settings=Settings(secret_key="i" * 32))

    @inner.get("/")
    def whose(request: Request) -> dict[str, object]:
        return {**request.session, "hash": get_session(request).id_hash}

    app.mount("/inner", inner)
    app.add_api_route("/", whose)
    app.add_middleware(SessionMiddleware, settings=Settings(secret_key="o" * 32))
    with TestClient(app) as client:
        outer = client.get("/").json()
        assert outer["seen"] == 1
        assert client.get("/inner/").json() == {"seen": 2, "hash": outer["hash"]}


def test_an_exception_handler_says_what_an_outage_looks_like(free_port: int) -> None:
    away = Settings(
        redis_url=f"redis://127.0.0.1:{free_port}", secret_key="k" * 32, session_on_outage="closed"
    )

    def app_of() -> FastAPI:
        app = FastAPI()
        app.add_middleware(SessionMiddleware, settings=away)

        @app.get("/")
        def home(request: Request) -> None:
            request.session["a"] = 1

        return app

    with TestClient(app_of()) as client:
        plain = client.get("/")
        assert plain.status_code == 503
        assert int(plain.headers["retry-after"]) > 0

    app = app_of()

    @app.exception_handler(SessionUnavailable)
    async def later(_: Request, error: SessionUnavailable) -> Response:
        return JSONResponse({"again_in": error.retry_after}, 503)

    with TestClient(app) as client:
        assert client.get("/").json()["again_in"] > 0
