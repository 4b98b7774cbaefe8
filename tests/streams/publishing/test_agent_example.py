"""The example with an agent, as its page uses it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.support.process import ROOT

if TYPE_CHECKING:
    from tests.conftest import Serve

EXAMPLE = ROOT / "examples" / "agent.py"


@pytest.fixture
def url(serve: Serve) -> str:
    return serve([str(EXAMPLE)], env={"SECONDS_PER_WORD": "0.02"}).url


def events(lines: Any, count: int = 1000) -> list[tuple[str, Any]]:
    """Read up to *count* events, in the blunt way of a test."""
    found: list[tuple[str, Any]] = []
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((kind, json.loads(line.removeprefix("data: "))))
            if len(found) == count:
                break
    return found


def test_an_answer_survives_a_refresh(url: str) -> None:
    with httpx.Client(base_url=url) as browser:
        assert "EventSource" in browser.get("/").text
        with browser.stream("GET", "/answers/one?q=kelp") as answer:
            begun = events(answer.iter_lines(), 3)
        with browser.stream("GET", "/answers/one") as answer:
            whole = events(answer.iter_lines())
    assert whole[:3] == begun
    assert whole[0] == ("thinking", {"about": "kelp"})
    assert [kind for kind, _ in whole[1:]] == ["token"] * 16 + ["workflow_complete"]
    with httpx.Client(base_url=url) as stranger:
        stranger.get("/")
        assert stranger.get("/answers/one").json()["code"] == "RUN_NOT_YOURS"
        assert stranger.post("/answers/one/stop").status_code == 403


def test_its_button_stops_the_agent(url: str) -> None:
    with httpx.Client(base_url=url) as browser:
        browser.get("/")
        with browser.stream("GET", "/answers/two?q=kelp") as answer:
            lines = answer.iter_lines()
            events(lines, 2)
            assert browser.post("/answers/two/stop").json() == {"stop": "requested"}
            assert events(lines)[-1] == ("run_stopped", {})
        assert browser.post("/answers/two/stop").json() == {"stop": "ended"}
