"""What is found out about a server, and how it is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.link.conftest import until_sync

from holdfast.link.capabilities import (
    Finding,
    Report,
    eviction,
    inspect,
    latency,
    parse_info,
    persistence,
    role,
    version,
    worries,
)
from holdfast.settings import Settings
from holdfast.testing import FaultProxy, redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.link.conftest import MakeLink

    from holdfast.link.capabilities import Verdict
    from holdfast.testing import RedisServer


def verdicts(report: Report) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in report.findings}


def text(report: Report, name: str) -> str:
    return next(finding.text for finding in report.findings if finding.name == name)


def look(url: str | None, timeout: float = 5.0) -> Report:
    return inspect(Settings(redis_url=url, redis_timeout=timeout))


@pytest.mark.parametrize(
    ("judge", "info", "verdict", "words"),
    [
        (version, {"redis_version": "7.0.15"}, "ok", "Redis 7.0.15"),
        (version, {"redis_version": "4.0.14"}, "problem", "5.0 or newer"),
        (version, {"redis_version": "7.2.4", "valkey_version": "8.1.0"}, "ok", "Valkey 8.1.0"),
        (version, {}, "warning", "does not say"),
        (role, {"role": "master", "connected_slaves": "2"}, "ok", "2 replicas"),
        (role, {"role": "slave"}, "problem", "point HOLDFAST_REDIS_URL at the master"),
        (role, {"role": "master", "cluster_enabled": "1"}, "problem", "cluster"),
        (eviction, {"maxmemory_policy": "noeviction"}, "ok", "noeviction"),
        (eviction, {"maxmemory_policy": "allkeys-lru"}, "warning", "may be evicted"),
        (eviction, {"maxmemory_policy": "volatile-ttl", "maxmemory": "0"}, "ok", "volatile-ttl"),
        (eviction, {"maxmemory_policy": "volatile-ttl", "maxmemory": "9"}, "warning", "evicted"),
        (eviction, {}, "warning", "unknown"),
        (persistence, {"aof_enabled": "1"}, "ok", "append-only"),
        (persistence, {"aof_enabled": "0", "rdb_saves": "3"}, "ok", "snapshots"),
        (persistence, {"rdb_last_bgsave_time_sec": "0"}, "ok", "snapshots"),
        (persistence, {"aof_enabled": "0", "rdb_saves": "0"}, "warning", "a restart loses all"),
    ],
)
def test_judgements(
    judge: Callable[[Mapping[str, str]], Finding],
    info: Mapping[str, str],
    verdict: Verdict,
    words: str,
) -> None:
    finding = judge(info)
    assert finding.verdict == verdict
    assert words in finding.text


def test_latency_is_judged_against_the_deadline() -> None:
    assert latency([0.0001, 0.0002, 0.0003], 0.25).verdict == "ok"
    assert latency([0.0001, 0.1, 0.2], 0.25).verdict == "warning"


def test_info_is_read_line_by_line() -> None:
    assert parse_info(b"# Server\r\na:1\r\n\r\nb:x:y\r\n") == {"a": "1", "b": "x:y"}


def test_a_well_server() -> None:
    with redis_server("--appendonly", "yes") as server:
        report = look(server.url)
        assert report.verdict == "ok"
        assert set(verdicts(report)) == {
            "reachable", "version", "role", "eviction", "persistence", "commands", "write",
            "scripts", "latency",
        }  # fmt: skip
        left = server.execute("KEYS", "*")
        assert isinstance(left, list)
        assert all(server.execute("PTTL", key) != -1 for key in left if isinstance(key, bytes))


def test_without_a_url_there_is_only_memory() -> None:
    assert verdicts(look(None)) == {"redis": "warning"}


def test_a_server_that_is_not_there(free_port: int) -> None:
    report = look(f"redis://:s3cret@127.0.0.1:{free_port}")
    assert report.verdict == "problem"
    assert "refused" in text(report, "reachable")
    assert "s3cret" not in repr(report)


def test_a_server_that_says_nothing(redis: RedisServer) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        proxy.blackhole()
        report = look(f"redis://127.0.0.1:{proxy.port}", 0.25)
        assert "timeout" in text(report, "reachable")


def test_a_server_that_wants_a_password() -> None:
    with redis_server("--requirepass", "pw") as server:
        report = look(f"redis://127.0.0.1:{server.port}")
        assert verdicts(report) == {"reachable": "problem"}
        assert "auth" in text(report, "reachable")


def test_a_careless_server() -> None:
    with redis_server("--maxmemory-policy", "allkeys-lru") as server:
        found = verdicts(look(server.url))
        assert found["eviction"] == found["persistence"] == "warning"
        assert found["write"] == found["scripts"] == "ok"


def test_a_full_server_and_a_replica() -> None:
    with redis_server("--maxmemory", "1") as full, redis_server() as replica:
        assert "out_of_memory" in text(look(full.url), "write")
        replica.execute("REPLICAOF", "127.0.0.1", full.port)
        report = look(replica.url)
        assert report.verdict == "problem"
        assert verdicts(report)["role"] == verdicts(report)["write"] == "problem"


def test_an_old_server() -> None:
    with redis_server("--rename-command", "XADD", "") as server:
        report = look(server.url)
        assert "XADD missing" in text(report, "commands")
        assert report.verdict == "problem"


def test_a_server_that_renames_what_it_writes_with() -> None:
    with redis_server("--rename-command", "SET", "") as server:
        assert text(look(server.url), "write") == "it refuses to write (ERR)"


def test_a_narrow_user_is_a_warning_and_no_crash() -> None:
    with redis_server() as server:
        server.execute(
            "ACL", "SETUSER", "narrow", "on", ">pw", "~*", "&*", "+@all", "-info", "-command"
        )
        report = look(f"redis://narrow:pw@127.0.0.1:{server.port}")
        found = verdicts(report)
        assert found["info"] == found["commands"] == "warning"
        assert found["write"] == found["scripts"] == found["latency"] == "ok"
        server.execute("ACL", "SETUSER", "narrow", "-eval", "-get")
        report = look(f"redis://narrow:pw@127.0.0.1:{server.port}")
        assert verdicts(report)["scripts"] == verdicts(report)["write"] == "problem"


def test_only_what_endangers_a_redis_in_use_is_worth_a_line() -> None:
    well = {"maxmemory_policy": "noeviction", "aof_enabled": "0", "rdb_saves": "0"}
    assert worries(well | {"uptime_in_seconds": "60", "rdb_changes_since_last_save": "9"}) == []
    assert worries(well | {"uptime_in_seconds": "9999", "rdb_changes_since_last_save": "0"}) == []
    (text,) = worries(well | {"uptime_in_seconds": "9999", "rdb_changes_since_last_save": "9"})
    assert "a restart loses all" in text
    kept = {"uptime_in_seconds": "9999", "rdb_changes_since_last_save": "9", "rdb_saves": "1"}
    assert worries(well | kept) == []
    (text,) = worries(well | {"maxmemory_policy": "allkeys-lru"})
    assert "use noeviction" in text


def test_a_redis_that_throws_sessions_out_is_told_when_it_is_first_used(
    make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server("--maxmemory-policy", "allkeys-lru") as server:
        link = make_link(server.url, timeout=5.0)
        assert link.execute_sync("PING") == b"PONG"
        until_sync(
            lambda: "not set up to keep sessions and streams: allkeys-lru" in caplog.text, 15
        )
