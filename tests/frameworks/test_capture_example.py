"""The example of capture, as its first lines say it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.conftest import Serve

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_poem_is_written_once_however_often_its_reader_comes_back(serve: Serve) -> None:
    command = ["-m", "holdfast", "serve", "capture:app", "--app-dir", str(EXAMPLES)]
    env = {"HOLDFAST_STREAM_CAPTURE": "/poem", "SECONDS_PER_WORD": "0.01"}
    server = serve([*command, "--port", "{port}"], env=env)
    words: list[str] = []
    last: dict[str, str] = {}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert "EventSource" in client.get("/").text
        while True:
            with client.stream("GET", "/poem", headers=last) as answer:
                if answer.status_code == 204:
                    break
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        last = {"last-event-id": line[4:]}
                    elif line.startswith("data: "):
                        words.append(line[6:])
                        break
        assert " ".join(words).startswith("The kelp lets go of nothing")
        assert len(words) == 13
        assert client.get("/written").json() == {"times": 1}
