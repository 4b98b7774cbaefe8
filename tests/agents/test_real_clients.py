"""The clients of the formats themselves, as npm installs them, read the examples."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.agents.stories import STORIES

from holdfast.agents.ag_ui import AGUIEncoder
from holdfast.agents.ai_sdk import UIMessageEncoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from selenium.webdriver import Chrome
    from tests.conftest import Serve

    from holdfast.agents.wire import Encoder

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
ENV = {"HOLDFAST_SECRET_KEY": "a-key-of-sixteen-characters-or-more", "SECONDS_PER_WORD": "0.2"}
PACKAGES = ["ai@7.0.173", "@ag-ui/client@1.0.0"]
ANSWER = "A holdfast is what keeps kelp on its rock. "
FOUND = {"found": "what keeps kelp on its rock"}


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The clients as npm installs them, kept for the next time."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed: apt-get install nodejs npm")
    name = "-".join(PACKAGES).replace("/", "-")
    kept = Path(tempfile.gettempdir()) / f"holdfast-tests-{os.getuid()}-{name}"
    if not kept.exists():
        fresh = Path(tempfile.mkdtemp())
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
        try:
            subprocess.run(command, cwd=fresh, capture_output=True, check=True, timeout=110)
            fresh.rename(kept)
        except (subprocess.SubprocessError, OSError) as error:
            shutil.rmtree(fresh)
            if not kept.exists():  # where another process was quicker
                pytest.skip(f"npm could not install {PACKAGES}: {error}")
    return kept / "node_modules"


def said_by(script: str, node_modules: Path, folder: Path, *args: str) -> Any:
    (folder / "node_modules").unlink(missing_ok=True)
    (folder / "node_modules").symlink_to(node_modules)
    file = shutil.copy(HERE / script, folder)
    command = ["node", str(file), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_client_of_ag_ui(serve: Serve, node_modules: Path, tmp_path: Path) -> None:
    server = serve(EXAMPLES / "agent_ag_ui.py", env={**ENV, "SECONDS_PER_WORD": "0.01"})
    first = said_by("ag_ui.mjs", node_modules, tmp_path, f"{server.url}/agent", "r")
    assert first["events"][0] == "RUN_STARTED"
    assert first["events"][-1] == "RUN_FINISHED"
    reasoning, call, result, answer = first["messages"]
    assert reasoning["content"] == "They ask: What is a holdfast?"
    assert call["toolCalls"][0]["function"]["name"] == "look_up"
    assert json.loads(result["content"]) == FOUND
    assert answer["content"] == ANSWER
    # The same run, from another page or a later day: the same messages.
    assert said_by("ag_ui.mjs", node_modules, tmp_path, f"{server.url}/agent", "r") == first


def test_the_client_of_the_ai_sdk(serve: Serve, node_modules: Path, tmp_path: Path) -> None:
    server = serve(EXAMPLES / "agent_ai_sdk.py", env=ENV)
    said = said_by("ai_sdk.mjs", node_modules, tmp_path, server.url)
    assert said["first"] == said["second"]
    assert said["left"] is None
    assert said["first"]["id"] == "chat:u"
    first, reasoning, tool, second, text = said["first"]["parts"]
    assert (first["type"], second["type"]) == ("step-start", "step-start")
    assert reasoning["text"] == "They ask: What is a holdfast?"
    assert (tool["type"], tool["state"], tool["output"]) == (
        *("tool-look_up", "output-available"),
        FOUND,
    )
    assert (text["text"], text["state"]) == (ANSWER, "done")


def streams_of(encoder: Callable[[], Encoder], story: Any, first: int, length: int) -> list[Any]:
    """A story as it is spelled; and where an agent says it so itself, with some of it gone."""
    spelling, passing = encoder(), encoder()
    *own, last = [frame for kind, data in story for frame in spelling.encode(kind, data)]
    told = [frame for each in own[:first] for frame in passing.encode("message", each)]
    told += passing.notice("holdfast.gap", {"requested": "0", "earliest": "1-1"})
    rest = [*own[first + length :], last]
    told += [frame for each in rest for frame in passing.encode("message", each)]
    return [[*own, last], told]


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "ag_ui_stories.mjs": lambda: AGUIEncoder("r", "t"),
    "ai_sdk_stories.mjs": lambda: UIMessageEncoder("r"),
}
PARTS = st.tuples(STORIES, st.integers(0, 30), st.integers(1, 10))


@pytest.mark.parametrize("script", ENCODERS)
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(st.lists(PARTS, min_size=25, max_size=25))
def test_whatever_an_agent_says_is_read(
    script: str, node_modules: Path, tmp_path: Path, parts: Any
) -> None:
    told = [each for part in parts for each in streams_of(ENCODERS[script], *part)]
    stories = tmp_path / "stories.json"
    stories.write_text(json.dumps(told))
    assert said_by(script, node_modules, tmp_path, str(stories)) == []


@pytest.mark.browser
def test_a_page_that_watches_a_graph_is_loaded_again(serve: Serve, browser: Chrome) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    server = serve(EXAMPLES / "agent_langgraph.py", env={**ENV, "SECONDS_PER_WORD": "0.3"})

    def shown(name: str) -> str:
        found = browser.execute_script(f"return document.getElementById('{name}').textContent")
        return str(found)

    browser.get(server.url)
    browser.execute_script("document.forms[0].requestSubmit()")
    WebDriverWait(browser, 30).until(lambda _: "You" in shown("text"))
    assert shown("node") == "write"
    browser.refresh()
    WebDriverWait(browser, 30).until(lambda _: shown("state") == "workflow_complete")
    assert shown("text") == "You asked. Kelp has no roots: a holdfast keeps it on its rock."
    browser.execute_script("document.forms[0].requestSubmit()")
    WebDriverWait(browser, 30).until(lambda _: "You" in shown("text"))
    browser.execute_script("document.getElementById('stop').click()")
    WebDriverWait(browser, 30).until(lambda _: shown("state") == "run_stopped")
