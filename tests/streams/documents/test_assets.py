"""The browser's client as a file: where it is, how it is cached, how small it is."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from typing import TYPE_CHECKING

import minify
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from holdfast import EventStreamApp, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_MINIFIED = 6000
STATIC = resources.files("holdfast.streams") / "static"


@pytest.fixture
def client() -> Iterator[TestClient]:
    streams = EventStreamApp(settings=Settings(stream_allowed_origins="https://shop.example"))
    with TestClient(Starlette(routes=[Mount("/streams", streams)])) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("holdfast.js", "text/javascript"), ("holdfast.d.ts", "application/typescript")],
)
def test_the_file_is_served_where_the_streams_are(
    client: TestClient, name: str, media_type: str
) -> None:
    answer = client.get(f"/streams/{name}")
    assert answer.content == (STATIC / name).read_bytes()
    assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = client.head(f"/streams/{name}")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))


def test_a_browser_asks_again_and_gets_nothing_twice(client: TestClient) -> None:
    first = client.get("/streams/holdfast.js")
    assert first.headers["cache-control"] == "public, no-cache"
    tag = first.headers["etag"]
    for condition in [tag, f"W/{tag}", f'"other", {tag}', "*"]:
        again = client.get("/streams/holdfast.js", headers={"if-none-match": condition})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = client.get("/streams/holdfast.js", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


def test_an_address_with_its_version_is_kept_for_ever_and_with_another_not(
    client: TestClient,
) -> None:
    version = client.get("/streams/holdfast.js").headers["etag"].strip('"')
    kept = client.get(f"/streams/holdfast.js?v={version}")
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    stale = client.get("/streams/holdfast.js?v=0123456789abcdef")
    assert stale.headers["cache-control"] == "public, no-cache"


def test_a_page_of_an_allowed_origin_may_import_it(client: TestClient) -> None:
    answer = client.get("/streams/holdfast.js", headers={"origin": "https://shop.example"})
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"


def test_it_is_small_and_names_nobody_else() -> None:
    source = (STATIC / "holdfast.js").read_text()
    assert len(minify.string("text/javascript", source).encode()) < MAX_MINIFIED
    assert "import" not in source
    assert "://" not in source


@pytest.mark.skipif(shutil.which("tsc") is None, reason="tsc is not installed")
def test_the_types_hold_in_strict_typescript(tmp_path: Path) -> None:
    for name in ("holdfast.js", "holdfast.d.ts"):
        (tmp_path / name).write_text((STATIC / name).read_text())
    (tmp_path / "page.ts").write_text("""
import { follow, type Following } from "./holdfast.js";
interface Page { lines: string[] }
const run: Following = follow<Page>("/streams/runs/r/events/stream", {
  transport: "ws",
  signal: new AbortController().signal,
  token: async ({ refused }) => (refused ? "new" : "old"),
  remember: () => ({ lines: [] }),
  onRestore: (page) => page.lines.length,
  onEvent: (event) => console.log(event.id, event.type, event.data, event.created_at),
  onGap: (gap) => console.log(gap.earliest),
  onState: (state, refusal) => console.log(state === "failed" ? refusal?.status : state),
});
const all = follow("/streams/events/stream", {
  runs: ["a", "b"],
  onRunEnd: ({ run_id, code }) => console.log(run_id, code?.length),
});
all.add("c");
all.drop("a");
void all.stop("b").then(() => run.stop());
// @ts-expect-error the state is read only
run.state = "live";
// @ts-expect-error no such transport
follow("/x", { transport: "smoke" });
run.close();
""")
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"]
    command = ["tsc", *options, "--lib", "es2022,dom", "page.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
