"""The examples of the frameworks, each behind a server that people use."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("worker", ["gthread", "gevent"])
def test_a_job_of_flask_is_watched_and_stopped(
    worker: str, serve: Serve, environment: dict[str, str]
) -> None:
    pytest.importorskip("gunicorn")
    pytest.importorskip("gevent")
    where = ["--chdir", str(EXAMPLES), "--bind", "127.0.0.1:{port}", "--worker-class", worker]
    command = ["-m", "gunicorn", *where, "--workers", "2", "--threads", "4", "flask_streams:app"]
    server = serve(command, env={**environment, "SECONDS_PER_WORD": "0.25"})
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.get("/jobs").status_code == 404
        job = client.post("/jobs").json()
        url = f"{job['url']}/events/stream?token={job['token']}"
        assert events_at(client, url) == ["word"] * 12 + ["workflow_complete"]
        again = client.get("/jobs").json()
        assert again["url"] == job["url"], "a refresh of the page finds the job"
        url = f"{again['url']}/events/stream?token={again['token']}"
        assert events_at(client, url)[-1] == "workflow_complete"
        assert httpx.get(server.url + job["url"] + "/events").status_code == 401
        job = client.post("/jobs").json()
        client.post(f"{job['url']}/stop?token={job['token']}").raise_for_status()
        url = f"{job['url']}/events/stream?token={job['token']}"
        assert events_at(client, url)[-1] == "run_stopped"
        assert "EventSource" in client.get("/").text


def test_quart_behind_uvicorn(serve: Serve, environment: dict[str, str]) -> None:
    server = serve(EXAMPLES / "quart_app.py", env=environment)
    assert shop(server.url) == {"user": "ada", "cart": ["tea", "milk"], "visits": 2}


def events_at(client: httpx.Client, url: str) -> list[str]:
    """Read a run to its end; return the types of its events."""
    answer = client.get(url)
    answer.raise_for_status()
    return re.findall(r"^event: (\w+)$", answer.text, re.MULTILINE)


def test_fastapi_on_two_workers(serve: Serve, environment: dict[str, str]) -> None:
    pytest.importorskip("fastapi")
    env = {**environment, "SECONDS_PER_LINE": "0.05"}
    server = serve(EXAMPLES / "fastapi_app.py", env=env, args=["--workers", "2"])
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.post("/report").status_code == 401
        assert client.get("/report").status_code == 404
        client.post("/login/ada").raise_for_status()
        url = client.post("/report").json()["url"]
        assert events_at(client, url) == ["line", "line", "line", "workflow_complete"]
        assert "EventSource" in client.get("/").text
        again = client.get("/report").json()["url"]
        assert events_at(client, again) == ["line", "line", "line", "workflow_complete"]
        assert httpx.get(server.url + again).status_code == 401, "it is for this session alone"
        client.post("/logout").raise_for_status()
        assert client.get(again).status_code == 401
        assert client.get("/report").status_code == 404


def test_starlette_with_nothing_configured(serve: Serve) -> None:
    server = serve([str(EXAMPLES / "starlette_app.py")], env={"SECONDS_PER_STEP": "0.05"})
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.get("/delivery").status_code == 404
        assert client.post("/basket/kelp").json() == ["kelp"]
        assert client.post("/basket/rope").json() == ["kelp", "rope"]
        url = client.post("/delivery").json()
        assert events_at(client, url) == ["delivered", "delivered", "workflow_complete"]
        assert events_at(client, client.get("/delivery").json())[-1] == "workflow_complete"
        assert client.post("/basket/rope").json() == ["rope"], "the basket was emptied"
        assert "EventSource" in client.get("/").text


def test_shared_login_in_one_process(
    serve: Serve, environment: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("django")
    pytest.importorskip("fastapi")
    own = {"HOLDFAST_SESSION_USER_KEY": "user_id", "SITE_DATABASE": str(tmp_path / "site.sqlite3")}
    server = serve([str(EXAMPLES / "shared_login.py")], env=environment | own)
    with httpx.Client(base_url=server.url, timeout=30, follow_redirects=True) as client:
        assert client.post("/shop/login", data={"name": "ada", "password": "no"}).status_code == 401
        assert client.get("/api/me").json()["user"] is None
        client.post("/shop/login", data={"name": "ada", "password": "lovelace"}).raise_for_status()
        assert client.get("/api/me").json()["user"] == "ada"
        page = client.get("/account/").text
        assert "<p id=who>ada</p>" in page
        token = re.findall(r'csrfmiddlewaretoken value="(\w+)"', page)[0]
        assert client.get("/account/logout").status_code == 405
        out = client.post("/account/logout", data={"csrfmiddlewaretoken": token})
        assert "<p id=who>Nobody</p>" in out.text
        assert client.get("/api/me").json()["user"] is None
