"""One session in three frameworks: what each may write, and what it is to the others."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.support.process import ServerProcess, uvicorn_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing import RedisServer

pytest.importorskip("django")
pytest.importorskip("flask")
pytest.importorskip("fastapi")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("shared login")]

TAGGED = {
    "pair": {" t": [1, {" t": [2, 3]}]},
    "raw": {" b": "AP8="},
    "markup": {" m": "<b>bold</b>"},
    "id": {" u": "12345678123456781234567812345678"},
    "when": {" d": "Sat, 21 Nov 2026 20:30:00 GMT"},
    "deep": {"list": [{" t": [1]}, {"of": {" b": "Ynl0ZXM="}}]},
    "_permanent": True,
    "_flashes": [{" t": ["message", "Welcome"]}],
}
PLAIN = {"plain": {"a": [1, None, True, 1.5, "é"]}, "count": 2}


@pytest.fixture(scope="module", params=["memory", "redis"])
def url(
    request: pytest.FixtureRequest,
    _shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of the three of them in one process, which takes its time to start."""
    folder = tmp_path_factory.mktemp("shared")
    where = (
        {"HOLDFAST_REDIS_URL": _shared_redis.url, "HOLDFAST_REDIS_TIMEOUT": "10"}
        if request.param == "redis"
        else {"HOLDFAST_SESSION_STORE": "memory"}
    )
    env = {
        **where,
        "HOLDFAST_KEY_PREFIX": f"test-{uuid.uuid4().hex[:12]}:",
        "HOLDFAST_SECRET_KEY": "the key that the three of them have",
        "HOLDFAST_SESSION_USER_KEY": "user_id",
        "SITE_DATABASE": str(folder / "site.sqlite3"),
    }
    command = uvicorn_command("tests.frameworks.shared_values:app")
    server = ServerProcess(command, folder / "server.log", env)
    try:
        server.start()
        yield server.url
    finally:
        server.close()


@pytest.fixture
def visitor(url: str) -> Iterator[httpx.Client]:
    """A browser that nobody knows."""
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_each_reads_what_the_others_wrote_and_leaves_it_as_it_is(visitor: httpx.Client) -> None:
    ok(visitor.post("/shop/values"))
    assert ok(visitor.get("/api/values")) == TAGGED
    ok(visitor.post("/api/values"))
    assert ok(visitor.get("/account/values")) == TAGGED | PLAIN

    anonymous = visitor.cookies["session"]
    by_django = ok(visitor.post("/account/values"))
    assert visitor.cookies["session"] != anonymous, "Django's login gives a new cookie"
    assert by_django.pop("of_django") == {"visits": [1, 2]}
    assert by_django.pop("_session_expiry") == 3600
    assert by_django.pop("user_id") == "grace"
    own = {key: by_django.pop(key) for key in list(by_django) if key.startswith("_auth_user_")}
    assert set(own) == {"_auth_user_id", "_auth_user_backend", "_auth_user_hash"}
    assert by_django == TAGGED | PLAIN

    # What Flask wrote has been through both, and is what it was.
    read = ok(visitor.get("/shop/values"))
    assert read["own"] == dict.fromkeys(read["own"], True)
    assert read["types"]["markup"] == "Markup"
    assert read["plain"] == PLAIN
    assert read["permanent"] is True
    assert read["messages"] == ["Welcome"]
    assert read["user"] == "grace"
    assert ok(visitor.get("/api/values")).items() >= own.items(), "and so is what Django wrote"

    # Who writes to a key of Flask's writes what it has itself.
    ok(visitor.post("/api/pair"))
    assert ok(visitor.get("/api/values"))["pair"] == [4, 5]
    assert ok(visitor.get("/shop/values"))["types"]["pair"] == "list"

    # One user to all of them, whoever wrote it; and another is another session.
    old = visitor.cookies["session"]
    login = visitor.post("/shop/login", data={"name": "ada", "password": "lovelace"})
    assert login.status_code == 302
    assert visitor.cookies["session"] != old
    assert ok(visitor.get("/api/values")) == {"user_id": "ada"}
    assert "<p id=who>ada</p>" in visitor.get("/account/").text


def test_who_is_out_at_one_is_out_at_all_and_so_is_what_they_read(visitor: httpx.Client) -> None:
    for number, where in enumerate(("/shop/logout", "/api/logout", "/account/out")):
        visitor.post("/shop/login", data={"name": "ada", "password": "lovelace"})
        copy = visitor.cookies["session"]
        token = visitor.post(f"/api/run/r{number}").json()
        stream = f"/streams/runs/r{number}/events/stream?token={token}"
        with visitor.stream("GET", stream) as reading:
            lines = reading.iter_lines()
            assert "event: begun" in lines
            ok(visitor.post(where))
            assert "event: begun" not in lines, "the stream has ended"
        assert "session" not in visitor.cookies
        visitor.cookies.set("session", copy)
        assert ok(visitor.get("/api/me"))["user"] is None
        assert "<p id=who>Nobody</p>" in visitor.get("/shop/").text
        assert "<p id=who>Nobody</p>" in visitor.get("/account/").text
        assert visitor.get(stream).status_code == 401
        visitor.cookies.clear()


def ok(response: httpx.Response) -> dict[str, Any]:
    response.raise_for_status()
    found: dict[str, Any] = response.json()
    return found
