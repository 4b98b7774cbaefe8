"""Sentinels: which master they name, what a dead one costs, and the next master."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import socketserver
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.link.certificates import make_certificates
from tests.link.conftest import until, until_sync
from tests.link.test_client import both_ways, until_both_ways

from holdfast.errors import RedisUnavailable
from holdfast.link import LinkState
from holdfast.link.client import connect, target
from holdfast.link.sentinel import Master, Sentinels, WatchedConversation, master_of
from holdfast.link.topology import Topology
from holdfast.settings import Settings
from holdfast.testing import FaultProxy, redis_server
from holdfast.testing.redis_process import reserve_port, send_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.link.conftest import MakeLink

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio


@contextmanager
def sentinels(
    port: int, folder: Path, *more: str, count: int = 1, quorum: int = 1
) -> Iterator[list[int]]:
    """Sentinels of the service ``main`` whose master is at *port*; *more* lines of configuration.

    ``{port}`` in a line is the sentinel's own.
    """
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            own = stack.enter_context(reserve_port()).getsockname()[1]
            config = folder / f"sentinel-{own}.conf"
            lines = [
                f"port {own}",
                "bind 127.0.0.1",
                f"dir {folder}",
                f"sentinel monitor main 127.0.0.1 {port} {quorum}",
                "sentinel down-after-milliseconds main 300",
                "sentinel failover-timeout main 2000",
                *more,
            ]
            config.write_text("\n".join(lines).format(port=own) + "\n")
            process = subprocess.Popen(
                ["redis-server", str(config), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            ports.append(own)
        for own in ports:
            until_sync(partial(_listens, own), 30)
        yield ports


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def master_and_replica() -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two servers, the one in step with the other, so that a sentinel sees both at once."""
    with redis_server("--repl-diskless-sync-delay", "0") as master, redis_server() as replica:
        replica.execute("REPLICAOF", "127.0.0.1", master.port)
        until_sync(lambda: b"master_link_status:up" in _told(replica), 30)
        yield master, replica


def _told(server: RedisServer) -> bytes:
    answer = server.execute("INFO", "replication")
    assert isinstance(answer, bytes)
    return answer


@pytest.mark.slow
async def test_sentinels_lead_to_the_master_and_to_the_next_one(
    make_link: MakeLink, tmp_path: Path
) -> None:
    with master_and_replica() as (master, replica):
        dead = reserve_port()
        with dead, sentinels(master.port, tmp_path) as (port,):
            places = f"127.0.0.1:{dead.getsockname()[1]},127.0.0.1:{port}"
            link = make_link(f"redis+sentinel://{places}/main/0", timeout=2.0)
            link.start()
            await until(lambda: link.up, 30)
            await both_ways(link)
            await link.execute("SET", "k", "v")
            await until(lambda: replica.execute("GET", "k") == b"v", 30)
            # The sentinel knows the replica, or there would be nobody to promote.
            await until(lambda: _replicas(port), 30)
            master.kill()
            await until(lambda: link.status.state is LinkState.DOWN)
            await until_both_ways(link)
            assert await link.execute("GET", "k") == b"v"


def _replicas(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        answer = send_command(connection, "SENTINEL", "REPLICAS", "main")
    return isinstance(answer, list) and any(
        isinstance(each, list) and b"slave" in each for each in answer
    )


async def test_sentinels_that_know_no_master_are_an_outage(
    make_link: MakeLink, free_port: int
) -> None:
    link = make_link(f"redis+sentinel://127.0.0.1:{free_port}/main/0")
    assert not await link.ready()
    assert link.status.reason == "failover"
    with pytest.raises(RedisUnavailable) as error:
        await connect(link.target)
    assert error.value.reason == "failover"


async def test_once_the_master_is_found_nobody_asks_for_it_again(
    redis: RedisServer, make_link: MakeLink, tmp_path: Path, free_port: int
) -> None:
    """New loops and threads connect while every sentinel is away, or says nothing."""
    with (
        sentinels(redis.port, tmp_path) as (port,),
        FaultProxy.threaded("127.0.0.1", port) as silent,
    ):
        silent.blackhole()
        places = f"127.0.0.1:{free_port},127.0.0.1:{silent.port},127.0.0.1:{port}"
        link = make_link(f"redis+sentinel://{places}/main/0", timeout=2.0)
        link.start()
        await until(lambda: link.up, 30)
        asked = silent.request_bytes
        await both_ways(link)
        await asyncio.to_thread(asyncio.run, both_ways(link))
        assert silent.request_bytes == asked
    await asyncio.to_thread(asyncio.run, both_ways(link))


async def test_sentinels_and_master_with_passwords_of_their_own(
    make_link: MakeLink, tmp_path: Path
) -> None:
    with (
        redis_server("--requirepass", "of-the-master") as master,
        sentinels(
            master.port,
            tmp_path,
            "requirepass of-sentinel",
            "sentinel auth-pass main of-the-master",
        ) as (port,),
    ):
        place = f"127.0.0.1:{port}/main/0"
        link = make_link(
            f"redis+sentinel://:of-the-master@{place}?sentinel_password=of-sentinel", timeout=2.0
        )
        link.start()
        await until(lambda: link.up, 30)
        await both_ways(link)
        wrong = make_link(f"redis+sentinel://:of-the-master@{place}", timeout=2.0)
        assert not await wrong.ready()
        assert wrong.status.reason in ("auth", "failover")


async def test_sentinels_and_master_over_tls(make_link: MakeLink, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with reserve_port() as holder, redis_server(*made.server_options(holder)) as master:
        assert master.running
        tls = holder.getsockname()[1]
        lines = [f"{name[2:]} {value}" for name, value in made.pairs] + ["tls-replication yes"]
        with sentinels(tls, tmp_path, "port 0", "tls-port {port}", *lines) as (port,):
            link = make_link(
                f"rediss+sentinel://127.0.0.1:{port}/main/0?{made.client_query}", timeout=2.0
            )
            link.start()
            await until(lambda: link.up, 30)
            await both_ways(link)


@pytest.mark.slow
async def test_a_failover_on_purpose_in_mid_traffic_is_followed(
    make_link: MakeLink, tmp_path: Path, key_prefix: str
) -> None:
    """The old master takes writes for ten seconds more, and our connections to it stay open."""
    with (
        master_and_replica() as (master, replica),
        sentinels(master.port, tmp_path, count=3, quorum=2) as ports,
    ):
        places = ",".join(f"127.0.0.1:{port}" for port in ports)
        link = make_link(f"redis+sentinel://{places}/main/0", timeout=1.0)
        link.start()
        await until(lambda: link.up, 30)
        await until(lambda: all(_replicas(port) for port in ports), 30)
        writing, refused = True, set[str]()

        async def write() -> None:
            while writing:
                try:
                    await link.execute("INCR", f"{key_prefix}n")
                except RedisUnavailable as error:
                    refused.add(error.reason)
                await asyncio.sleep(0.002)

        writers = [asyncio.create_task(write()) for _ in range(3)]
        # Refused until the sentinels have found each other and looked at the replica.
        await until(lambda: _ask(ports[0], "SENTINEL", "FAILOVER", "main") == b"OK", 60)
        await until(lambda: link.up and link.target.options["port"] == replica.port, 60)
        before = replica.execute("GET", f"{key_prefix}n")
        await until(lambda: replica.execute("GET", f"{key_prefix}n") != before, 30)
        writing = False
        await asyncio.gather(*writers)
        assert refused <= {"failover", "reset", "readonly", "refused", "canary", "timeout"}


def _ask(port: int, *command: str) -> object:
    with (
        contextlib.suppress(RuntimeError),
        socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
    ):
        return send_command(connection, *command)
    return None


# What each of them says, by its port: the epoch, and the port of the master.
CLAIMS: dict[int, tuple[int, int]] = {}


class _Claim(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(4096):
            epoch, port = CLAIMS[self.server.server_address[1]]  # type: ignore[index]
            words = ["name", "main", "ip", "127.0.0.1", "port", str(port), "flags", "master"]
            words += ["config-epoch", str(epoch)]
            reply = "".join(f"${len(each)}\r\n{each}\r\n" for each in words)
            self.request.sendall(f"*{len(words)}\r\n{reply}".encode())


@contextmanager
def claiming(epoch: int, port: int) -> Iterator[int]:
    """Something that speaks like a sentinel, and names a master at *port*; yields its own port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Claim) as server:
        server.daemon_threads = True
        own: int = server.server_address[1]
        CLAIMS[own] = epoch, port
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield own
        finally:
            server.shutdown()
            serving.join()


def asked(*ports: int) -> Sentinels:
    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    return Sentinels(target(Settings(redis_url=f"redis+sentinel://{places}/main/0")))


def test_a_sentinel_that_missed_the_failover_is_outvoted_by_the_newer_epoch() -> None:
    with (
        claiming(3, 1111) as late,
        claiming(4, 2222) as right,
        contextlib.closing(asked(late, right)) as both,
        contextlib.closing(asked(late)) as only,
    ):
        assert both.find(2.0) == Master(4, ("127.0.0.1", 2222))
        assert not only.supersede(Master(4, ("127.0.0.1", 2222)), 2.0)
        assert only.supersede(Master(2, ("127.0.0.1", 2222)), 2.0)
        assert not only.supersede(Master(2, ("127.0.0.1", 1111)), 2.0)


def test_a_sentinel_that_is_not_there_is_no_reason_to_leave_the_master(free_port: int) -> None:
    with claiming(4, 2222) as there, contextlib.closing(asked(free_port, there)) as both:
        assert both.find(2.0) == Master(4, ("127.0.0.1", 2222))
        known = Master(1, ("127.0.0.1", 1111))
        assert not both.supersede(known, 2.0)
        # It is left alone for a while, and then another is asked.
        assert not both.supersede(known, 2.0)
        both._asked_in_vain = float("-inf")
        assert both.supersede(known, 2.0)


def test_a_master_that_was_replaced_is_not_probed_any_more(redis: RedisServer) -> None:
    with redis_server() as promoted, claiming(1, redis.port) as port:
        url = f"redis+sentinel://127.0.0.1:{port}/main/0"
        topology = Topology(target(Settings(redis_url=url)))
        with contextlib.closing(WatchedConversation(topology, 2.0)) as conversation:
            assert conversation.canaries("k") == ["k"]
            CLAIMS[port] = 2, promoted.port
            with pytest.raises(RedisUnavailable) as error:
                conversation.canaries("k")
            assert error.value.reason == "failover"
        with contextlib.closing(WatchedConversation(topology, 2.0)) as conversation:
            assert topology.target.options["port"] == promoted.port
            assert not conversation.stale()


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        [b"ip", b"h", b"port", b"1", b"flags", b"master"],
        [b"ip", b"h", b"port", b"x", b"flags", b"master", b"config-epoch", b"1"],
        [b"ip", b"h", b"port", b"1", b"flags", b"s_down,master", b"config-epoch", b"1"],
        [b"ip", b"h", b"port", b"1", b"flags", b"slave", b"config-epoch", b"1"],
    ],
    ids=["nothing", "empty", "no epoch", "no port", "down", "a replica"],
)
def test_what_names_no_master_that_is_well_is_nobody(reply: object) -> None:
    assert master_of(reply) is None
