"""What the page of other frameworks says, with the files that it has its reader save."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "frameworks" / "others.md"


@pytest.fixture
def environment(redis: RedisServer, key_prefix: str) -> dict[str, str]:
    return {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_SECRET_KEY": "the key that these applications have",
        # A busy machine is slow, not away.
        "HOLDFAST_REDIS_TIMEOUT": "10",
    }


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        (tmp_path / block.split("\n", 1)[0].removeprefix("# ")).write_text(block)
    return tmp_path


@pytest.mark.parametrize("name", ["litestar", "sanic"])
def test_an_asgi_framework_has_sessions_and_streams(
    name: str, serve: Serve, files: Path, environment: dict[str, str]
) -> None:
    pytest.importorskip(name)
    server = serve(files / f"{name}_app.py", env=environment)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.get("/").json() == {"user": None, "cart": []}
        assert "session" not in client.cookies
        assert client.post("/cart/tea").json() == ["tea"]
        anonymous = client.cookies["session"]
        assert client.post("/login/ada").json() == {"logins": 1}
        assert client.cookies["session"] != anonymous, "a login gives a new cookie"
        assert client.post("/cart/milk").json() == ["tea", "milk"]
        known = client.get("/")
        assert known.json() == {"user": "ada", "cart": ["tea", "milk"]}
        assert "set-cookie" not in known.headers
        assert client.get("/streams/livez").status_code == 200
        copy = dict(client.cookies)
        client.post("/logout").raise_for_status()
        assert "session" not in client.cookies
    assert httpx.get(server.url, cookies=copy, timeout=30).json() == {"user": None, "cart": []}


@pytest.mark.parametrize("name", ["litestar", "sanic"])
def test_a_session_that_cannot_be_stored_is_a_503(
    name: str, serve: Serve, files: Path, environment: dict[str, str], free_port: int
) -> None:
    pytest.importorskip(name)
    nowhere = {"HOLDFAST_REDIS_URL": f"redis://127.0.0.1:{free_port}/0"}
    env = {**environment, **nowhere, "HOLDFAST_SESSION_ON_OUTAGE": "closed"}
    server = serve(files / f"{name}_app.py", env=env)
    answer = httpx.post(f"{server.url}/login/ada", timeout=30)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "set-cookie" not in answer.headers


def test_aiohttp_publishes_and_a_process_beside_it_is_read(
    serve: Serve, files: Path, environment: dict[str, str]
) -> None:
    pytest.importorskip("aiohttp")
    publisher = serve([str(files / "aiohttp_app.py")], env=environment)
    reader = serve(files / "streams.py", env=environment)
    url = httpx.post(f"{publisher.url}/runs", timeout=30).json()["url"]
    answer = httpx.get(reader.url + url, timeout=30)
    assert re.findall(r"^event: (\w+)$", answer.text, re.MULTILINE) == [
        *["step"] * 3,
        "workflow_complete",
    ]
    assert httpx.get(reader.url + url.split("?")[0], timeout=30).status_code == 401
