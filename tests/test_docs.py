"""What the pages say can be followed: links lead somewhere, and the code in them is real."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import holdfast

if TYPE_CHECKING:
    from tests.conftest import Serve

    from holdfast.testing import RedisServer

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def prose_of(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def python_in(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def links_of(page: Path) -> list[tuple[Path, str]]:
    """Where the links of a page to others of ours lead: a file, and an anchor or nothing."""
    links = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    parts = [each.partition("#") for each in links if not re.match(r"\w+:", each)]
    return [((page.parent / path).resolve() if path else page, at) for path, _, at in parts]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    for target, anchor in links_of(page):
        assert target.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(target), f"{page.name} links to {anchor}"


def test_everything_in_docs_is_reached_from_the_list_of_pages() -> None:
    reached, todo = set[Path](), [ROOT / "docs/index.md"]
    while todo:
        reached.add(page := todo.pop())
        if page.suffix == ".md":
            todo += {target for target, _ in links_of(page)} - reached
    files = {each for each in (ROOT / "docs").rglob("*.*") if each.is_file()}
    assert not files - reached


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_table_has_as_many_cells_in_every_row(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", prose_of(page), re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_in_a_page_compiles_and_imports_what_there_is(page: Path) -> None:
    for block in python_in(page):
        tree = compile(block, str(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "holdfast":
                for alias in node.names:
                    assert hasattr(holdfast, alias.name), f"{page.name} imports {alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    for file, test in re.findall(r"`((?:src|tests)/[\w/.]+\.py)::(\w+)`", page.read_text()):
        path = ROOT / file
        assert path.exists(), f"{page.name} names {file}"
        assert f"def {test}(" in path.read_text(), f"{page.name} names {test}"


def test_the_architecture_names_files_that_are_there() -> None:
    for name in re.findall(
        r"`([a-z_/]+\.(?:py|lua))`", (ROOT / "docs/architecture.md").read_text()
    ):
        places = [ROOT / name, ROOT / "src" / "holdfast" / name]
        assert any(place.exists() for place in places), name


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """A folder with the files that the quickstart has its reader save."""
    for block in python_in(ROOT / "docs/quickstart.md"):
        (tmp_path / block.split("\n", 1)[0].removeprefix("# ")).write_text(block)
    return tmp_path


def test_the_quickstart_of_sessions_does_what_it_says(quickstart: Path, serve: Serve) -> None:
    with httpx.Client(base_url=serve(quickstart / "shop.py").url) as client:
        client.post("/add/rope")
        before = dict(client.cookies)
        client.post("/login/ada")
        assert dict(client.cookies) != before
        answer = client.get("/")
        assert answer.json() == {"user": "ada", "cart": ["rope"]}
        assert "set-cookie" not in answer.headers
        client.post("/logout")
        assert client.get("/").json() == {"user": None, "cart": []}


def test_the_quickstart_of_streams_does_what_it_says(quickstart: Path, serve: Serve) -> None:
    url = serve(quickstart / "agent.py").url
    page = httpx.get(url, follow_redirects=True).text
    source = re.search(r'EventSource\("([^"]+)"\)', page)
    assert source
    text = httpx.get(url + source[1], timeout=30).text
    assert [int(step) for step in re.findall(r'data: {"step":(\d+)}', text)] == [*range(1, 21)]
    assert text.count("event: workflow_complete") == 1
    last = re.findall(r"^id: (\S+)$", text, re.MULTILINE)[-1]
    again = httpx.get(url + source[1], headers={"Last-Event-ID": last})
    assert again.status_code == 204


def test_the_worker_of_the_quickstart_publishes_to_redis(
    quickstart: Path, serve: Serve, redis: RedisServer, key_prefix: str
) -> None:
    env = {"HOLDFAST_REDIS_URL": redis.url, "HOLDFAST_KEY_PREFIX": key_prefix}
    worker = serve([str(quickstart / "worker.py")], env=env, wait=False)
    assert worker.wait() == 0, worker.log()
    pattern = f"{key_prefix}run:import-*:events"
    reply: Any = redis.execute("SCAN", 0, "MATCH", pattern, "COUNT", 100_000)
    (key,) = reply[1]
    assert redis.execute("XLEN", key) == 3
