"""What the server at the other end can do and how it is set up, found by asking, never by its name.

`missing_commands` guards each new connection of the supervisor; `inspect` is for whoever asks.
Neither changes anything on the server, except for one canary that expires by itself.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import HoldfastError, RedisReplyError, RedisUnavailable
from holdfast.link.client import target
from holdfast.link.conversing import converse
from holdfast.link.topology import Topology

if TYPE_CHECKING:
    from holdfast.link.conversing import AnyConversation
    from holdfast.settings import Settings

# XADD came with Redis 5.0, and with it all that the rest of the package uses.
NEEDED = ("XADD", "EVALSHA")
PINGS = 20
# The longest of the default rules ("save 3600 1"), and the time to do it.
SNAPSHOT_SECONDS = 3900

Verdict = Literal["ok", "warning", "problem"]
Info = Mapping[str, str]


@dataclass(frozen=True)
class Finding:
    """One line of an inspection.

    Attributes:
        name: what was looked at.
        verdict: ``ok``, ``warning`` or ``problem``.
        text: what was found, and the remedy where there is one.
    """

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Report:
    """All that an inspection found, in the order it looked."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings."""
        found = {finding.verdict for finding in self.findings}
        for verdict in ("problem", "warning"):
            if verdict in found:
                return verdict
        return "ok"


def missing_commands(conversation: AnyConversation, deadline: float) -> list[str]:
    """Name the needed commands that the server does not have; none where it will not say.

    Raises:
        RedisUnavailable: it did not answer by *deadline* (``time.monotonic()``), or cannot serve.
    """
    answer = conversation.call([("COMMAND", "INFO", *NEEDED)], deadline)[0]
    if isinstance(answer, RedisUnavailable) and answer.reason != "auth":
        raise answer
    if not isinstance(answer, list):
        return []
    return [name for name, known in zip(NEEDED, answer, strict=False) if not known]


def inspect(settings: Settings) -> Report:
    """Connect to the Redis of *settings* and look it over, synchronously.

    Never raises for what it finds: what is wrong is a finding. A question that is not answered
    takes four times ``REDIS_TIMEOUT``, at least one second.

    Raises:
        ConfigurationError: the URL cannot work.
    """
    if settings.redis_url is None:
        return Report(
            (Finding("redis", "warning", "no HOLDFAST_REDIS_URL: memory of one process"),)
        )
    patience = max(4 * settings.redis_timeout, 1.0)
    topology = Topology(target(settings))
    try:
        conversation = converse(topology, patience)
    except RedisUnavailable as error:
        return Report((_unreachable(error),))
    try:
        asking = _Asking(conversation, patience)
        return Report(tuple(_findings(asking, settings, topology)))
    finally:
        conversation.close()


class _Asking:
    """A connection that gives one answer at a time, errors as values."""

    def __init__(self, conversation: AnyConversation, patience: float) -> None:
        self._conversation = conversation
        self._patience = patience

    def ask(self, *command: str | int) -> Any:
        try:
            return self._conversation.call([command], time.monotonic() + self._patience)[0]
        except RedisUnavailable as error:
            return error

    def canaries(self, key: str) -> list[str]:
        return self._conversation.canaries(key)


def _findings(asking: _Asking, settings: Settings, topology: Topology) -> Iterator[Finding]:
    answer = asking.ask("PING")
    if isinstance(answer, RedisUnavailable):
        yield _unreachable(answer)
        return
    yield Finding("reachable", "ok", "it answers")
    answer = asking.ask("INFO")
    info = parse_info(answer) if isinstance(answer, bytes) else None
    if info is None:
        yield Finding(
            "info", "warning", "its user may not call INFO: version, role … are not known"
        )
    else:
        yield version(info)
        yield cluster(len(topology.nodes)) if topology.clustered else role(info)
        yield eviction(info)
        yield persistence(info)
    yield _commands(asking)
    yield _canaries(asking, settings.key_prefix)
    yield _scripts(asking)
    yield _latency(asking, settings.redis_timeout)


def _unreachable(error: RedisUnavailable) -> Finding:
    return Finding("reachable", "problem", f"{error.reason}: {error.detail or error.reason}")


def parse_info(raw: bytes) -> dict[str, str]:
    """Read the answer to INFO: ``name:value`` lines under ``#`` headings."""
    lines = raw.decode(errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def version(info: Info) -> Finding:
    """Judge the version; a server compatible with Redis says by both its names what it is."""
    if "valkey_version" in info:
        return Finding("version", "ok", f"Valkey {info['valkey_version']}")
    text = info.get("redis_version", "")
    major = text.partition(".")[0]
    if major.isdecimal() and int(major) < 5:
        return Finding("version", "problem", f"Redis {text}: 5.0 or newer is needed")
    return Finding("version", "ok" if text else "warning", f"Redis {text or '(it does not say)'}")


def role(info: Info) -> Finding:
    """Judge the role: a replica can be read, but nothing here can be written to it."""
    name = info.get("role", "unknown")
    if info.get("cluster_enabled") == "1":
        text = "a node of a cluster: HOLDFAST_REDIS_URL has to begin with redis+cluster://"
        return Finding("role", "problem", text)
    if name == "master":
        return Finding("role", "ok", f"master, {info.get('connected_slaves', '0')} replicas")
    return Finding("role", "problem", f"{name}: point HOLDFAST_REDIS_URL at the master")


def cluster(masters: int) -> Finding:
    """Tell how many masters share the keys."""
    return Finding("role", "ok", f"a Cluster of {masters} masters; one of them tells the rest")


def eviction(info: Info) -> Finding:
    """Judge the eviction policy: sessions may not be thrown out to make room."""
    policy = info.get("maxmemory_policy", "unknown")
    if policy.startswith("allkeys-"):
        text = f"{policy}: live sessions and events may be evicted; use noeviction or volatile-ttl"
        return Finding("eviction", "warning", text)
    if policy.startswith("volatile-") and info.get("maxmemory", "0") != "0":
        text = f"{policy} with a memory limit: sessions expire, so they too may be evicted"
        return Finding("eviction", "warning", text)
    return Finding("eviction", "ok" if policy != "unknown" else "warning", policy)


def persistence(info: Info) -> Finding:
    """Judge the persistence: without any, a restart of Redis logs everybody out.

    INFO tells whether AOF is on; of RDB it tells only whether one was ever saved.
    """
    if info.get("aof_enabled") == "1":
        return Finding("persistence", "ok", "append-only file")
    if info.get("rdb_saves", "0") != "0" or info.get("rdb_last_bgsave_time_sec", "-1") != "-1":
        return Finding(
            "persistence", "ok", "snapshots (RDB): a crash loses what came after the last"
        )
    return Finding(
        "persistence", "warning", "neither an append-only file nor a snapshot: a restart loses all"
    )


def worries(info: Info) -> list[str]:
    """Say what of a Redis in use endangers what it keeps, each with its remedy; for the log.

    Persistence only where it is sure to be missing: a snapshot of the default rules is due within
    the hour after a change, and of the rules themselves INFO says nothing.
    """
    found = [eviction(info)]
    old, changed = info.get("uptime_in_seconds", "0"), info.get("rdb_changes_since_last_save", "0")
    if old.isdecimal() and int(old) > SNAPSHOT_SECONDS and changed != "0":
        found.append(persistence(info))
    return [each.text for each in found if each.verdict == "warning"]


def _commands(asking: _Asking) -> Finding:
    answer = asking.ask("COMMAND", "INFO", *NEEDED)
    if not isinstance(answer, list):
        return Finding("commands", "warning", "its user may not ask for its commands")
    missing = [name for name, known in zip(NEEDED, answer, strict=False) if not known]
    if missing:
        return Finding(
            "commands", "problem", f"{', '.join(missing)} missing: 5.0 or newer is needed"
        )
    return Finding("commands", "ok", "streams and scripts")


def _canaries(asking: _Asking, prefix: str) -> Finding:
    try:
        keys = asking.canaries(f"{prefix}holdfast:canary:{secrets.token_hex(8)}")
    except RedisUnavailable as error:
        return Finding("write", "problem", f"{error.reason}: {error.detail or error.reason}")
    found = [_canary(asking, key) for key in keys]
    return next((each for each in found if each.verdict != "ok"), found[0])


def _canary(asking: _Asking, key: str) -> Finding:
    value = secrets.token_hex(4)
    written = asking.ask("SET", key, value, "PX", 10_000)
    if isinstance(written, RedisUnavailable):
        return Finding("write", "problem", f"{written.reason}: {written.detail or written.reason}")
    if isinstance(written, RedisReplyError):
        return Finding("write", "problem", f"it refuses to write ({written.code})")
    if asking.ask("GET", key) != value.encode():
        return Finding("write", "problem", "it did not keep what was written")
    return Finding("write", "ok", "written and read back")


def _scripts(asking: _Asking) -> Finding:
    answer = asking.ask("EVAL", "return 1", 0)
    if answer == 1:
        return Finding("scripts", "ok", "Lua runs")
    code = answer.code if isinstance(answer, RedisReplyError) else getattr(answer, "reason", "?")
    return Finding("scripts", "problem", f"Lua does not run ({code})")


def _latency(asking: _Asking, timeout: float) -> Finding:
    times: list[float] = []
    for _ in range(PINGS):
        start = time.perf_counter()
        if isinstance(asking.ask("PING"), HoldfastError):
            return Finding("latency", "problem", "it stopped answering")
        times.append(time.perf_counter() - start)
    return latency(times, timeout)


def latency(times: Sequence[float], timeout: float) -> Finding:
    """Judge round trips (seconds) against the deadline of one operation."""
    median = statistics.median(times)
    text = f"{median * 1000:.2f} ms (median of {len(times)})"
    if median > timeout / 4:
        text += f": close to HOLDFAST_REDIS_TIMEOUT ({timeout:g} s)"
        return Finding("latency", "warning", text)
    return Finding("latency", "ok", text)
