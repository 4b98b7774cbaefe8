"""The demo through its own door: login, runs, tokens, and what it refuses."""

from __future__ import annotations

import runpy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient

from holdfast.demo import create_app
from holdfast.demo.app import RUNS_KEPT

if TYPE_CHECKING:
    from collections.abc import Iterator

FAST = {"task": "walk", "speed": 1000}


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(), base_url="http://demo.test") as client:
        yield client


@pytest.fixture
def ada(client: TestClient) -> TestClient:
    assert client.post("/api/login", json={"name": "Ada"}).status_code == 200
    return client


def start(client: TestClient, **changes: object) -> str:
    answer = client.post("/api/runs", json={**FAST, **changes})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["run_id"])


def read_all(client: TestClient, run_id: str) -> list[dict[str, Any]]:
    """Page through the history until the run has ended."""
    token = client.get(f"/api/runs/{run_id}/token").json()["token"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        query: dict[str, Any] = {"token": token, "limit": 1000, "start_id": "0"}
        answer = client.get(f"/streams/runs/{run_id}/events", params=query)
        if answer.status_code == 200 and answer.json()["status"] == "ended":
            events: list[dict[str, Any]] = answer.json()["events"]
            return events
    raise AssertionError("the run did not end")


def test_the_page_allows_no_other_host_and_nothing_inline(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "holdfast demo" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("name", ["main.js", "../streams/holdfast.js", "style.css", "icon.svg"])
def test_the_files_of_the_page_are_served(client: TestClient, name: str) -> None:
    assert client.get(urljoin("/assets/", name)).status_code == 200


def test_a_login_is_kept_and_ends_with_the_logout(ada: TestClient) -> None:
    assert ada.get("/api/session").json()["user"] == "Ada"
    assert ada.post("/api/logout").status_code == 204
    assert ada.get("/api/session").json()["user"] is None


def test_the_session_panel_says_what_is_held_and_where(ada: TestClient) -> None:
    about = ada.get("/api/session").json()
    assert about["store"] == "the memory of this process"
    assert about["data"]["user_id"] == "Ada"
    assert about["available"] is True
    assert about["id_hash"]
    assert about["created_at"] < about["expires_at"]


def test_a_stranger_is_told_no_user_and_given_no_cookie(client: TestClient) -> None:
    answer = client.get("/api/session")
    assert answer.json()["user"] is None
    assert "set-cookie" not in answer.headers


def test_a_run_is_published_whole_and_read_by_its_token(ada: TestClient) -> None:
    run_id = start(ada)
    events = read_all(ada, run_id)
    numbers = [event["data"].get("n") or event["data"]["output"]["n"] for event in events]
    assert numbers == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "workflow_complete"
    assert f"run:{run_id}" in ada.get("/api/session").json()["data"]


def test_the_token_of_a_run_stops_it(ada: TestClient) -> None:
    run_id = start(ada, speed=0.1)
    token = ada.get(f"/api/runs/{run_id}/token").json()["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert ada.post(f"/streams/runs/{run_id}/stop", headers=bearer).status_code == 202
    assert read_all(ada, run_id)[-1]["type"] == "run_stopped"


def test_only_the_newest_runs_stay_in_the_session(ada: TestClient) -> None:
    started = [start(ada) for _ in range(RUNS_KEPT + 2)]
    data = ada.get("/api/session").json()["data"]
    kept = {key.removeprefix("run:") for key in data if key.startswith("run:")}
    assert kept == set(started[2:])


def test_a_run_of_another_session_gets_no_token(ada: TestClient) -> None:
    run_id = start(ada)
    bob = TestClient(ada.app, base_url="http://demo.test")
    bob.post("/api/login", json={"name": "Bob"})
    assert bob.get(f"/api/runs/{run_id}/token").status_code == 404


def test_without_a_login_there_is_no_run_and_no_token(client: TestClient) -> None:
    assert client.post("/api/runs", json=FAST).status_code == 401
    assert client.get("/api/runs/demo-1/token").status_code == 401


def test_without_a_token_the_stream_is_closed(ada: TestClient) -> None:
    run_id = start(ada)
    assert ada.get(f"/streams/runs/{run_id}/events").status_code in {401, 403}


@pytest.mark.parametrize("name", ["", "   ", "x" * 41, "a\u0000b", "a\nb", "\u202eevil"])
def test_a_bad_name_is_refused(client: TestClient, name: str) -> None:
    assert client.post("/api/login", json={"name": name}).status_code == 422


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_a_body_that_is_no_object_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/api/login", content=body).status_code == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "unknown"},
        {"task": ["walk"]},
        {"speed": 0},
        {"speed": "1"},
        {"speed": 1e9},
        {"rounds": 0},
        {"rounds": 26},
    ],
)
def test_a_run_with_wrong_options_is_refused_and_leaves_no_trace(
    ada: TestClient, wrong: dict[str, object]
) -> None:
    assert ada.post("/api/runs", json={**FAST, **wrong}).status_code == 422
    data = ada.get("/api/session").json()["data"]
    assert not [key for key in data if key.startswith("run:")]


@pytest.mark.parametrize("path", ["/api/login", "/api/logout", "/api/runs"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_another_sites_page_can_post_nothing(
    ada: TestClient, path: str, headers: dict[str, str]
) -> None:
    body = {"name": "Mallory", **FAST}
    assert ada.post(path, json=body, headers=headers).status_code == 403
    assert ada.get("/api/session").json()["user"] == "Ada"


def test_the_example_is_the_demo() -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "demo.py"))
    assert "<title>holdfast demo</title>" in TestClient(example["app"]).get("/").text


def test_the_page_itself_may_post(client: TestClient) -> None:
    headers = {"origin": "http://demo.test", "sec-fetch-site": "same-origin"}
    answer = client.post("/api/login", json={"name": "Ada"}, headers=headers)
    assert answer.json()["user"] == "Ada"
