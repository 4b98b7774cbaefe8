"""A Redis Cluster: keys on several masters, slots on the move, a master that dies."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.link.conftest import until

from holdfast.errors import RedisUnavailable
from holdfast.link import Link, LinkState, LinkStatus, Listener, Recovery, Script, ThreadListener
from holdfast.link.capabilities import inspect
from holdfast.link.client import Target
from holdfast.link.slots import slot_of
from holdfast.link.topology import Topology
from holdfast.settings import Settings
from holdfast.testing import redis_cluster, redis_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.link.conftest import MakeLink

    from holdfast.link import Reply
    from holdfast.testing import RedisCluster

pytestmark = pytest.mark.anyio

BOTH = Script("both", "return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}")
PATIENCE = 10.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with redis_cluster() as cluster:
        yield cluster


@pytest.fixture
async def link(cluster: RedisCluster, make_link: MakeLink) -> Link:
    link = make_link(cluster.url, timeout=PATIENCE)
    link.start()
    await until(lambda: link.up, 30)
    return link


def watched(link: Link) -> list[LinkStatus]:
    """Every state but ``UP``, of which somebody may still be told when the link has been up."""
    seen: list[LinkStatus] = []

    def notice(status: LinkStatus) -> None:
        if status.state is not LinkState.UP:
            seen.append(status)

    link.on_transition(notice)
    return seen


def both_ways(link: Link) -> list[Callable[..., Awaitable[Reply]]]:
    """The link's door for loops, and the one for threads."""
    return [link.execute, partial(asyncio.to_thread, link.execute_sync)]


def elsewhere(cluster: RedisCluster, slot: int) -> int:
    """The number of a master that does not have *slot*."""
    return (cluster.masters.index(cluster.owner(slot)) + 1) % len(cluster.masters)


async def test_every_command_goes_to_the_node_that_has_its_key(
    cluster: RedisCluster, link: Link, key_prefix: str
) -> None:
    keys = [f"{key_prefix}{n}" for n in range(30)]
    before = [server.execute("DBSIZE") for server in cluster.masters]
    answers = await link.pipeline([("SET", key, key) for key in keys])
    assert answers == [b"OK"] * 30
    after = [server.execute("DBSIZE") for server in cluster.masters]
    assert all(now != then for now, then in zip(after, before, strict=True))
    assert await asyncio.gather(*[link.execute("GET", key) for key in keys]) == [
        key.encode() for key in keys
    ]
    threaded = await asyncio.to_thread(link.pipeline_sync, [("GET", key) for key in keys])
    assert threaded == [key.encode() for key in keys]
    assert await asyncio.to_thread(link.execute_sync, "GET", keys[0]) == keys[0].encode()


async def test_what_has_no_key_goes_with_the_command_before_it(link: Link, key_prefix: str) -> None:
    commands = [("SET", f"{key_prefix}k", 1), ("TIME",), ("ECHO", "x")]
    threaded = await asyncio.to_thread(link.pipeline_sync, commands)
    for answers in (await link.pipeline(commands), threaded):
        assert answers[0] == b"OK"
        assert isinstance(answers[1], list)
        assert answers[2] == b"x"
    assert await link.execute("PING") == b"PONG"
    assert await link.pipeline([]) == []
    assert await asyncio.to_thread(link.pipeline_sync, []) == []


async def test_scripts_are_taught_to_each_node(link: Link, key_prefix: str) -> None:
    for n in range(9):
        keys = [f"{{{key_prefix}{n}}}a", f"{{{key_prefix}{n}}}b"]
        assert await link.run(BOTH, keys) == [None, None]
        assert await asyncio.to_thread(link.run_sync, BOTH, keys) == [None, None]


async def test_which_keys_lie_together_is_told(link: Link, make_link: MakeLink) -> None:
    assert link.slot("run:a:events") == link.slot(b"{run:a:events}:meta") == slot_of("run:a:events")
    assert link.slot("a") != link.slot("b")
    assert make_link("redis://127.0.0.1:1").slot("a") == 0


async def test_a_dead_node_in_the_url_is_passed_over(
    cluster: RedisCluster, make_link: MakeLink, free_port: int
) -> None:
    places = f"127.0.0.1:{free_port},127.0.0.1:{cluster.masters[2].port}"
    link = make_link(f"redis+cluster://{places}", timeout=PATIENCE)
    link.start()
    await until(lambda: link.up, 30)
    assert sorted(port for _, port in link.topology.nodes) == sorted(
        server.port for server in cluster.masters
    )


async def test_a_slot_that_has_moved_is_followed_without_an_error(
    cluster: RedisCluster, link: Link, key_prefix: str
) -> None:
    seen = watched(link)
    for n, ask in enumerate(both_ways(link)):
        key = f"{key_prefix}{n}"
        slot = slot_of(key)
        to = cluster.masters[elsewhere(cluster, slot)]
        await ask("SET", key, "moved with it")
        cluster.move(slot, to)
        assert await ask("GET", key) == b"moved with it"
        assert link.topology.homes[slot][1] == to.port
    assert not seen


async def test_keys_of_a_slot_on_its_way_are_found_on_either_side(
    cluster: RedisCluster, link: Link, key_prefix: str
) -> None:
    seen = watched(link)
    tag = f"{{{key_prefix}}}"
    slot = slot_of(tag)
    to = cluster.masters[elsewhere(cluster, slot)]
    await link.execute("SET", f"{tag}old", "stays till it is moved")
    source = cluster.begin_move(slot, to)
    try:
        for ask in both_ways(link):
            assert await ask("GET", f"{tag}old") == b"stays till it is moved"
            assert await ask("SET", f"{tag}new", "beyond") == b"OK"
            assert await ask("GET", f"{tag}new") == b"beyond"
        assert to.execute("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    finally:
        cluster.move_keys(slot, source, to)
        cluster.end_move(slot, to)
    assert not seen


@pytest.mark.parametrize("thread", [False, True], ids=["loop", "thread"])
async def test_a_script_waits_for_keys_that_are_on_both_sides(
    cluster: RedisCluster, link: Link, key_prefix: str, thread: bool
) -> None:
    seen = watched(link)
    tag = f"{{{key_prefix}}}"
    slot = slot_of(tag)
    keys = [f"{tag}there", f"{tag}missing"]
    to = cluster.masters[elsewhere(cluster, slot)]
    await link.execute("SET", keys[0], "x")
    source = cluster.begin_move(slot, to)
    running = asyncio.create_task(
        asyncio.to_thread(link.run_sync, BOTH, keys) if thread else link.run(BOTH, keys)
    )
    refused = _refusals(cluster)
    await until(lambda: _refusals(cluster) >= refused + 3, 30)
    cluster.move_keys(slot, source, to)
    cluster.end_move(slot, to)
    assert await running == [b"x", None]
    assert not seen


def _refusals(cluster: RedisCluster) -> int:
    """How often a node said TRYAGAIN."""
    count = 0
    for server in cluster.masters:
        told = server.execute("INFO", "errorstats")
        assert isinstance(told, bytes)
        for line in told.decode().splitlines():
            if line.startswith("errorstat_TRYAGAIN:count="):
                count += int(line.partition("=")[2])
    return count


@pytest.mark.parametrize("thread", [False, True], ids=["loop", "thread"])
async def test_a_slot_that_hangs_between_two_nodes_is_a_timeout_and_told_to_the_hooks(
    cluster: RedisCluster, make_link: MakeLink, key_prefix: str, thread: bool
) -> None:
    """Redis is well, so the link comes back at once, and what could not be written is replayed."""
    link = make_link(cluster.url, timeout=1.0)
    recoveries: list[Recovery] = []
    link.on_recovery("count", recoveries.append)
    link.start()
    await until(lambda: link.up, 30)
    tag = f"{{{key_prefix}}}"
    slot = slot_of(tag)
    to = cluster.masters[elsewhere(cluster, slot)]
    cluster.owner(slot).execute("SET", f"{tag}a", 1)
    source = cluster.begin_move(slot, to)
    try:
        before = len(recoveries)
        keys = [f"{tag}a", f"{tag}b"]
        with pytest.raises(RedisUnavailable) as error:
            await (asyncio.to_thread(link.run_sync, BOTH, keys) if thread else link.run(BOTH, keys))
        assert error.value.reason == "timeout"
        await until(lambda: len(recoveries) > before, 30)
        await until(lambda: link.up, 30)
    finally:
        cluster.move_keys(slot, source, to)
        cluster.end_move(slot, to)


async def test_a_caller_that_leaves_is_not_waited_for(
    cluster: RedisCluster, link: Link, key_prefix: str
) -> None:
    waiting = link.send("SET", f"{key_prefix}k", 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await link.execute("PING") == b"PONG"
    assert link.up


async def test_hooks_reach_every_node(
    cluster: RedisCluster, make_link: MakeLink, key_prefix: str
) -> None:
    link, told = make_link(cluster.url, timeout=PATIENCE), list[object]()

    def hook(recovery: Recovery) -> None:
        told.extend(recovery.pipeline([("SET", f"{key_prefix}{n}", n) for n in range(9)]))
        told.append(recovery.run(BOTH, [f"{{{key_prefix}}}a", f"{{{key_prefix}}}b"], []))

    link.on_recovery("nine", hook)
    link.start()
    await until(lambda: link.up, 30)
    assert told == [b"OK"] * 9 + [[None, None]]


async def test_a_channel_is_heard_from_whichever_node_it_is_rung_on(
    cluster: RedisCluster, link: Link, key_prefix: str
) -> None:
    heard: list[bytes] = []
    listener = Listener(link, lambda _, payload: heard.append(payload), lambda: None)
    await listener.add(f"{key_prefix}c")
    with contextlib.closing(ThreadListener(link)) as waiting:
        ring = partial(asyncio.to_thread, rung, waiting, f"{key_prefix}c")
        await ring()  # subscribed
        for n, server in enumerate(cluster.masters):
            server.execute("PUBLISH", f"{key_prefix}c", n)
            await ring()
    # One node may pass on what it was told before another does.
    await until(lambda: sorted(heard) == [b"0", b"1", b"2"], 30)
    await listener.aclose()


def rung(waiting: ThreadListener, channel: str) -> None:
    """Wait until *channel* rings."""
    last = time.monotonic() + 10
    while not waiting.wait([channel], 1.0):
        assert time.monotonic() < last, "it did not ring"


async def test_loops_come_and_go(cluster: RedisCluster, link: Link, key_prefix: str) -> None:
    def another() -> None:
        for n in range(6):
            assert asyncio.run(_set(link, f"{key_prefix}{n}")) == b"OK"

    await asyncio.to_thread(another)
    await link.execute("GET", f"{key_prefix}1")
    assert len(link._lanes) == 1
    await link.aclose()
    assert not link._lanes


async def _set(link: Link, key: str) -> object:
    return await link.execute("SET", key, 1)


def test_a_look_at_a_cluster(cluster: RedisCluster) -> None:
    found = {each.name: each for each in inspect(Settings(redis_url=cluster.url)).findings}
    assert found["role"].verdict == found["write"].verdict == found["scripts"].verdict == "ok"
    assert "3 masters" in found["role"].text
    node = {
        each.name: each for each in inspect(Settings(redis_url=cluster.masters[0].url)).findings
    }
    assert node["role"].verdict == "problem"
    assert "redis+cluster://" in node["role"].text


async def test_a_server_that_is_no_node_is_told(make_link: MakeLink) -> None:
    with redis_server() as alone:
        link = make_link(f"redis+cluster://127.0.0.1:{alone.port}", timeout=PATIENCE)
        assert not await link.ready()
        assert link.status.reason == "unsupported"
        settings = Settings(redis_url=f"redis+cluster://127.0.0.1:{alone.port}")
        told = {each.name: each for each in inspect(settings).findings}
        assert "not a node of a cluster" in told["reachable"].text


@pytest.mark.slow
async def test_slots_without_a_master_are_an_outage(make_link: MakeLink) -> None:
    with redis_server("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no",
                      "--cluster-port", "0") as alone:  # fmt: skip
        alone.execute("CLUSTER", "ADDSLOTSRANGE", 0, 16000)
        link = make_link(f"redis+cluster://127.0.0.1:{alone.port}", timeout=PATIENCE)
        assert not await link.ready()
        assert link.status.reason == "cluster_down"
        assert link.status.state is LinkState.DOWN
        alone.execute("CLUSTER", "ADDSLOTSRANGE", 16001, 16383)
        await until(lambda: link.up, 15)


def test_a_table_with_a_hole_is_an_outage() -> None:
    topology = Topology(Target("redis", {}, hosts=(("a", 1),)))
    with pytest.raises(RedisUnavailable) as error:
        topology.learn([[0, 16000, [b"a", 1]]], ("a", 1))
    assert error.value.reason == "cluster_down"


async def test_a_caller_may_leave_while_its_slot_is_on_its_way(
    cluster: RedisCluster, link: Link, key_prefix: str
) -> None:
    tag = f"{{{key_prefix}}}"
    slot = slot_of(tag)
    to = cluster.masters[elsewhere(cluster, slot)]
    cluster.owner(slot).execute("SET", f"{tag}a", 1)
    source = cluster.begin_move(slot, to)
    try:
        refused = _refusals(cluster)
        waiting = asyncio.create_task(link.run(BOTH, [f"{tag}a", f"{tag}b"]))
        await until(lambda: _refusals(cluster) > refused, 30)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await link.execute("GET", f"{tag}a") == b"1"
    finally:
        cluster.move_keys(slot, source, to)
        cluster.end_move(slot, to)


FORKING = """
import asyncio, os, sys, threading
from holdfast.link import Link
from holdfast.settings import Settings
link = Link(Settings(redis_url=sys.argv[1], redis_timeout=10))
async def both(name):
    written = await asyncio.gather(*[link.execute("SET", f"{name}{n}", n) for n in range(9)])
    assert written == [b"OK"] * 9
    found = await asyncio.to_thread(link.pipeline_sync, [("GET", f"{name}{n}") for n in range(9)])
    assert found == [b"%d" % n for n in range(9)]
def child():
    # A thread, because the child is still inside the parent's coroutine.
    done = []
    def run():
        asyncio.run(both("child"))
        done.append(True)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    os._exit(0 if done else 1)
async def main():
    await both("before")
    pid = os.fork()
    if pid == 0:
        child()
    await both("parent")
    assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
    await both("again")
    await link.aclose()
asyncio.run(main())
"""


@pytest.mark.slow
def test_after_a_fork_both_sides_have_connections_of_their_own(cluster: RedisCluster) -> None:
    subprocess.run([sys.executable, "-c", FORKING, cluster.url], check=True, timeout=60)


@pytest.mark.slow
async def test_a_master_that_says_nothing_is_an_outage(
    cluster: RedisCluster, make_link: MakeLink
) -> None:
    link = make_link(cluster.url, timeout=1.0)
    link.start()
    await until(lambda: link.up, 30)
    cluster.masters[1].freeze()
    try:
        await until(lambda: link.status.state is LinkState.DOWN, 30)
        assert link.status.reason in ("timeout", "cluster_down")
    finally:
        cluster.masters[1].thaw()
    await until(lambda: link.up, 60)


@pytest.mark.slow
async def test_slots_move_in_mid_traffic_and_nobody_notices(
    cluster: RedisCluster, link: Link, key_prefix: str
) -> None:
    seen, stop, written = watched(link), threading.Event(), dict[str, int]()
    errors: list[BaseException] = []

    async def write(writer: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            key = f"{key_prefix}{writer}:{count % 40}"
            try:
                await link.execute("SET", key, count)
                written[key] = count
            except RedisUnavailable as error:
                errors.append(error)

    writers = [asyncio.create_task(write(n)) for n in range(5)]
    moving = sorted({slot_of(f"{key_prefix}{n}:{m}") for n in range(5) for m in range(0, 40, 4)})

    def reshard() -> None:
        for slot in moving[:40]:
            cluster.move(slot, cluster.masters[elsewhere(cluster, slot)])

    await asyncio.to_thread(reshard)
    stop.set()
    await asyncio.gather(*writers)
    assert not errors
    assert not seen
    answers = await link.pipeline([("GET", key) for key in written])
    assert answers == [b"%d" % count for count in written.values()]


@pytest.mark.slow
async def test_the_loss_of_a_master_is_an_outage_until_its_replica_has_taken_over(
    make_link: MakeLink, key_prefix: str
) -> None:
    with redis_cluster(replicas=1) as cluster:
        link = make_link(cluster.url, timeout=1.0)
        link.start()
        await until(lambda: link.up, 30)
        keys = [f"{key_prefix}{n}" for n in range(30)]
        assert await link.pipeline([("SET", key, key) for key in keys]) == [b"OK"] * 30
        await until(cluster.in_step, 15)
        lost = cluster.masters[0]
        lost.kill()
        await until(lambda: link.status.state is LinkState.DOWN, 15)
        await until(lambda: link.up, 60)
        assert await link.pipeline([("GET", key) for key in keys]) == [k.encode() for k in keys]
        assert ("127.0.0.1", lost.port) not in link.topology.nodes
        # It comes back as a replica, and nobody minds.
        lost.start()
        assert await asyncio.to_thread(link.execute_sync, "GET", keys[0]) == keys[0].encode()
