"""The examples for Flask and Quart, each behind a server that people use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.conftest import Serve

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def environment(redis: RedisServer, key_prefix: str) -> dict[str, str]:
    return {
        "HOLDFAST_REDIS_URL": redis.url,
        "HOLDFAST_KEY_PREFIX": key_prefix,
        "HOLDFAST_SECRET_KEY": "the key that the examples are given",
        # A busy machine is slow, not away.
        "HOLDFAST_REDIS_TIMEOUT": "10",
    }


def shop(url: str) -> dict[str, object]:
    """Buy something, as one who logs in; return what the page said before the logout."""
    with httpx.Client(base_url=url, timeout=30) as client:
        assert client.post("/cart/tea").json() == {"cart": ["tea"]}
        anonymous = client.cookies["session"]
        assert client.post("/login", data={"name": "ada"}).text == "logged in\n"
        assert client.cookies["session"] != anonymous, "a login gives a new cookie"
        assert client.post("/cart/milk").json() == {"cart": ["tea", "milk"]}
        client.get("/").raise_for_status()
        said: dict[str, object] = client.get("/").json()
        old = client.cookies["session"]
        client.post("/logout").raise_for_status()
        assert "session" not in client.cookies
        client.cookies.set("session", old)
        assert client.get("/").json()["user"] is None, "a logout is for every copy of the cookie"
        return said


def test_flask_behind_gunicorn(serve: Serve, environment: dict[str, str]) -> None:
    pytest.importorskip("gunicorn")
    where = ["--chdir", str(EXAMPLES), "--bind", "127.0.0.1:{port}", "--workers", "2"]
    server = serve(["-m", "gunicorn", *where, "flask_app:app"], env=environment)
    said = shop(server.url)
    assert said == {"user": "ada", "cart": ["tea", "milk"], "messages": [], "visits": 2}


def test_quart_behind_uvicorn(serve: Serve, environment: dict[str, str]) -> None:
    server = serve(EXAMPLES / "quart_app.py", env=environment)
    assert shop(server.url) == {"user": "ada", "cart": ["tea", "milk"], "visits": 2}
