"""Each fault of the proxy is what its name says, at the moment its method returns."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from holdfast.testing import FaultProxy, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PING, PONG = b"PING\r\n", b"+PONG\r\n"


@pytest.fixture
def proxy(redis: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Callable[[], socket.socket]]:
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=15)
            return stack.enter_context(connection)

        yield connect


def ping(connection: socket.socket) -> bytes:
    connection.sendall(PING)
    return connection.recv(100)


def test_forwards_and_counts(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert [ping(connection) for _ in range(3)] == [PONG] * 3
    assert (proxy.accepted, proxy.live) == (1, 1)
    assert (proxy.request_bytes, proxy.reply_bytes) == (3 * len(PING), 3 * len(PONG))
    assert f"127.0.0.1:{proxy.port} to" in repr(proxy)


def test_large_replies_pass_whole(
    proxy: FaultProxy, connect: Callable[[], socket.socket], redis: RedisServer, key_prefix: str
) -> None:
    value = bytes(range(256)) * 40_000
    redis.execute("SET", key_prefix, value)
    connection = connect()
    connection.settimeout(10)
    connection.sendall(b"GET %b\r\n" % key_prefix.encode())
    expected = b"$%d\r\n%b\r\n" % (len(value), value)
    received = b""
    while len(received) < len(expected):
        received += connection.recv(1 << 20)
    assert received == expected
    redis.execute("DEL", key_prefix)


def test_refuse_resets_live_connections_and_refuses_new_ones(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    ping(connection)
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            connect()
        proxy.refuse()
    proxy.heal()
    assert ping(connect()) == PONG


def test_refuse_meets_a_connection_that_is_ending(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    ping(connect())

    async def between() -> None:
        (ending,) = proxy._live
        ending.cancel()
        while not ending.done():
            await asyncio.sleep(0)
        assert ending in proxy._live
        await proxy._refuse()

    asyncio.run_coroutine_threadsafe(between(), proxy._loop).result(15)
    with pytest.raises(ConnectionRefusedError):
        connect()


def test_reset_resets_live_and_new_connections(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    ping(connection)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    with pytest.raises(ConnectionResetError):
        ping(connect())
    proxy.heal()
    assert ping(connect()) == PONG


def test_blackhole_holds_both_ways_and_delivers_once_healed(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    old = connect()
    ping(old)
    proxy.blackhole()
    new = connect()
    for connection in (old, new):
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            ping(connection)
        connection.settimeout(15)
    assert proxy.reply_bytes == len(PONG), "a request came through"
    proxy.heal()
    assert (old.recv(100), new.recv(100)) == (PONG, PONG)


def test_a_lost_reply_means_a_command_carried_out(
    proxy: FaultProxy,
    connect: Callable[[], socket.socket],
    redis: RedisServer,
    key_prefix: str,
) -> None:
    connection = connect()
    ping(connection)
    proxy.blackhole("replies")
    connection.sendall(b"INCR %b\r\n" % key_prefix.encode())
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(15)
    proxy.cut()
    assert connection.recv(1) == b""
    assert redis.execute("GET", key_prefix) == b"1"
    redis.execute("DEL", key_prefix)


def test_held_requests_are_lost_by_a_cut(
    proxy: FaultProxy,
    connect: Callable[[], socket.socket],
    redis: RedisServer,
    key_prefix: str,
) -> None:
    connection = connect()
    proxy.blackhole("requests")
    connection.sendall(b"SET %b 1\r\n" % key_prefix.encode())
    proxy.cut(reset=True)
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert ping(connect()) == PONG
    assert redis.execute("GET", key_prefix) is None


def test_delay_is_of_the_round_trip_and_ends_with_heal(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    connection.settimeout(5)
    proxy.delay(0.1)
    begun = time.monotonic()
    assert ping(connection) == PONG
    assert 0.1 <= time.monotonic() - begun < 5
    proxy.delay(60)
    connection.sendall(PING)
    proxy.heal()
    assert connection.recv(100) == PONG


def test_a_throttled_network_takes_its_time_and_delivers_whole(
    proxy: FaultProxy, connect: Callable[[], socket.socket], redis: RedisServer, key_prefix: str
) -> None:
    redis.execute("SET", key_prefix, b"x" * 2000)
    connection = connect()
    connection.settimeout(5)
    proxy.throttle(10_000)
    begun = time.monotonic()
    connection.sendall(b"GET %b\r\n" % key_prefix.encode())
    received = b""
    while len(received) < 2000 + len(b"$2000\r\n\r\n"):
        received += connection.recv(1 << 16)
    assert received == b"$2000\r\n%b\r\n" % (b"x" * 2000)
    assert time.monotonic() - begun > 0.15
    proxy.heal()
    assert ping(connection) == PONG
    with pytest.raises(ValueError, match="above 0"):
        proxy.throttle(0)
    redis.execute("DEL", key_prefix)


def test_corrupt_alters_one_bit_of_a_reply(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    proxy.corrupt()
    reply = ping(connection)
    (index,) = [n for n, (a, b) in enumerate(zip(reply, PONG, strict=True)) if a != b]
    assert (reply[index] ^ PONG[index]).bit_count() == 1
    proxy.heal()
    assert ping(connection) == PONG


def test_a_server_that_says_no_more_still_listens(
    proxy: FaultProxy, connect: Callable[[], socket.socket], redis: RedisServer, key_prefix: str
) -> None:
    connection = connect()
    ping(connection)
    proxy.half_close()
    assert connection.recv(1) == b""
    connection.sendall(b"SET %b 1\r\n" % key_prefix.encode())
    deadline = time.monotonic() + 5
    while redis.execute("GET", key_prefix) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    redis.execute("DEL", key_prefix)
    assert ping(connect()) == PONG


def test_a_server_told_that_its_clients_are_done_closes(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    ping(connection)
    proxy.half_close("requests")
    assert connection.recv(1) == b""
    connection.close()
    deadline = time.monotonic() + 5
    while proxy.live:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert ping(connect()) == PONG


def test_a_client_that_leaves_is_forgotten(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    ping(connection)
    connection.close()
    deadline = time.monotonic() + 5
    while proxy.live:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_server_that_is_not_there_is_a_reset(free_port: int) -> None:
    # It may come before the connection is of any use, or just after.
    with (
        FaultProxy("127.0.0.1", free_port) as proxy,
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection,
    ):
        connection.recv(1)


async def test_works_beside_a_running_loop(redis: RedisServer) -> None:
    async with FaultProxy("127.0.0.1", redis.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(PING)
        assert await reader.readline() == PONG
        proxy.cut()
        assert await reader.readline() == b""
        writer.close()


def test_closing_what_was_never_used_leaves_nothing(redis: RedisServer) -> None:
    FaultProxy("127.0.0.1", redis.port).close()
