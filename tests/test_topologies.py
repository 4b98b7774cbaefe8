"""What docs/production/topologies.md says can be done: its files are read, a backup restored."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.link.conftest import until
from tests.sessions.browser import Browser, app_of

from holdfast import RunPublisher, SessionMiddleware, Settings
from holdfast.link import Link
from holdfast.settings import redis_url
from holdfast.streams.stores.redis import RedisEventStore
from holdfast.testing import RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast import Session

pytestmark = pytest.mark.anyio

# Without types of its own.
yaml: Any = importlib.import_module("yaml")

PRODUCTION = Path(__file__).resolve().parents[1] / "docs" / "production"
FILES = sorted((PRODUCTION / "deploy").glob("*.yaml"))
KNOWN = {f"HOLDFAST_{name.upper()}" for name in Settings.model_fields}


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def variables(node: Any) -> Iterator[tuple[str, str]]:
    """Every variable of holdfast that a file sets, in compose's way or in Kubernetes'."""
    if isinstance(node, dict):
        if str(node.get("name", "")).startswith("HOLDFAST_"):
            yield node["name"], node["value"]
        yield from ((k, v) for k, v in node.items() if str(k).startswith("HOLDFAST_"))
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from variables(each)


def filled(text: str) -> str:
    return re.sub(r"\$\{\w+:\?\}", "a-password", text)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_a_file_sets_variables_that_there_are_to_what_they_may_be(path: Path) -> None:
    found = dict(variables(documents(path)))
    assert {name.removesuffix("_FILE") for name in found} <= KNOWN
    assert {"HOLDFAST_REDIS_URL", "HOLDFAST_SECRET_KEY"} <= {
        name.removesuffix("_FILE") for name in found
    }
    if url := found.get("HOLDFAST_REDIS_URL"):
        target = redis_url.parse(filled(url))
        assert not target.ignored
        (services,) = [each["services"] for each in documents(path)]
        assert {host for host, _ in target.hosts} <= set(services)
        assert set(services["app"]["depends_on"]) <= set(services)
        mounts = [mount for each in services.values() for mount in each.get("volumes", ())]
        (volumes,) = [each["volumes"] for each in documents(path)]
        assert {mount.partition(":")[0] for mount in mounts} == set(volumes)


def test_the_manifest_mounts_what_its_variables_and_its_url_name() -> None:
    secret, deployment = documents(PRODUCTION / "deploy" / "managed.kubernetes.yaml")
    target = redis_url.parse(secret["stringData"]["redis_url"])
    assert not target.ignored
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    for name, value in variables(container):
        if name.endswith("_FILE"):
            assert mounted[str(Path(value).parent)] == "holdfast"
            assert Path(value).name in secret["stringData"]
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        assert mounted[str(Path(target.options[name]).parent)] == "redis-tls"
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert {each["name"] for each in volumes} == set(mounted.values())


def test_the_nodes_of_the_cluster_are_told_to_clients_by_the_names_of_their_services() -> None:
    (file,) = documents(PRODUCTION / "deploy" / "cluster.compose.yaml")
    nodes = {name: each for name, each in file["services"].items() if name.startswith("redis-")}
    assert {name: each["hostname"] for name, each in nodes.items()} == {n: n for n in nodes}
    for name, node in nodes.items():
        _, _, options = node["command"][-1].replace("$$(hostname)", name).partition("redis-server")
        with redis_server(*options.split()) as server:
            server.execute("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            slots: Any = server.execute("CLUSTER", "SLOTS")
            ((_, _, (host, *_)),) = slots
            assert host == name.encode()


def test_the_urls_of_the_page_are_understood() -> None:
    page = (PRODUCTION / "topologies.md").read_text()
    found = re.findall(r"^HOLDFAST_REDIS_URL=(\S+)$", page, re.MULTILINE)
    assert len(found) == 4
    for url in found:
        assert not redis_url.parse(url).ignored


async def test_a_restored_backup_has_every_session_and_run(tmp_path: Path) -> None:
    with redis_server("--appendonly", "yes", "--save", "") as server:
        settings = settings_of(server)
        browser = Browser(SessionMiddleware(app_of(visit), settings=settings))
        await browser.get()
        publisher = RunPublisher("r", settings=settings)
        for n in range(3):
            await publisher.emit("t", n)
        saved = server.execute("LASTSAVE")
        server.execute("BGSAVE")
        await until(lambda: b"rdb_bgsave_in_progress:0" in bytes_of(server, "persistence"), 15)
        await until(lambda: b"rdb_last_bgsave_status:ok" in bytes_of(server, "persistence"), 15)
        assert isinstance(saved, int)
        backup = shutil.copy(server.directory / "dump.rdb", tmp_path)
        cookies = dict(browser.cookies)
    restored = RedisServer("--appendonly", "no")
    try:
        shutil.copy(backup, restored.directory / "dump.rdb")
        restored.start()
        restored.execute("CONFIG", "SET", "appendonly", "yes")
        await until(lambda: b"aof_rewrite_in_progress:0" in bytes_of(restored, "persistence"), 15)
        settings = settings_of(restored)
        again = Browser(SessionMiddleware(app_of(visit), settings=settings), cookies)
        assert (await again.get()).body == b"2"
        link = Link(settings)
        store = RedisEventStore(link, settings)
        assert [event.data for event in await store.get_events("r", "0", None, 10)] == [0, 1, 2]
        await link.aclose()
    finally:
        restored.close()


def visit(session: Session) -> int:
    session["visits"] = session.get("visits", 0) + 1
    visits: int = session["visits"]
    return visits


def settings_of(server: RedisServer) -> Settings:
    return Settings(redis_url=server.url, redis_timeout=5, secret_key="k" * 32)


def bytes_of(server: RedisServer, section: str) -> bytes:
    told = server.execute("INFO", section)
    assert isinstance(told, bytes)
    return told
