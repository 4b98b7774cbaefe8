"""Ways in: TLS, a Unix socket, a password, a database, sentinels; and what the driver owes us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.link.certificates import make_certificates
from tests.link.conftest import until

from holdfast.errors import ConfigurationError, RedisUnavailable
from holdfast.link import Link, Listener
from holdfast.link.client import connect, take_back_unsent, target
from holdfast.settings import Settings
from holdfast.testing import redis_server
from holdfast.testing.redis_process import RedisServer, reserve_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.link.conftest import MakeLink

pytestmark = pytest.mark.anyio


def test_what_was_given_up_arrives_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for taken_back in (False, True):
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
            ours.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:  # until what the other side has room for is full, and what ours has
                    sent += ours.send(b"x" * 65536)
            if taken_back:
                take_back_unsent(ours)
            ours.close()
            assert (received(theirs) < sent) is taken_back


def received(theirs: socket.socket) -> int:
    count = 0
    with theirs, contextlib.suppress(ConnectionResetError):
        while data := theirs.recv(65536):
            count += len(data)
    return count


async def both_ways(link: Link) -> None:
    assert await link.execute("ECHO", "loop") == b"loop"
    assert await asyncio.to_thread(link.execute_sync, "ECHO", "thread") == b"thread"
    assert link.up


async def until_both_ways(link: Link) -> None:
    """A sentinel may change its mind after a failover: what counts is that the link gets there."""
    last = time.monotonic() + 30
    while True:
        await until(lambda: link.up, last - time.monotonic())
        with contextlib.suppress(RedisUnavailable):
            return await both_ways(link)


async def test_the_driver_hands_its_connection_over(redis: RedisServer) -> None:
    """The two private names of redis-py that `client` relies on: this fails if they go away."""
    stream = await connect(target(Settings(redis_url=redis.url)))
    heard = asyncio.get_running_loop().create_future()

    class Ours(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            heard.set_result(data)

    assert await stream.hand_over(Ours()) == b""
    stream.transport.write(b"PING\r\n")
    assert await heard == b"+PONG\r\n"
    stream.transport.abort()
    # Given up by redis-py: its connection, now collected, has neither closed nor complained.
    assert not [each for each in vars(stream).values() if type(each).__module__.startswith("redis")]


async def test_what_the_server_said_first_is_not_lost() -> None:
    """A full server, for one, speaks and hangs up before it was asked anything."""

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR max number of clients reached\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        stream = await connect(target(Settings(redis_url=f"redis://127.0.0.1:{port}")))
        await asyncio.sleep(0.05)
        early = await stream.hand_over(asyncio.Protocol())
        assert early == b"-ERR max number of clients reached\r\n"
        stream.transport.abort()
        await asyncio.sleep(0.05)


async def test_a_server_that_hung_up_while_it_was_handed_over_is_a_reset() -> None:
    async def gone(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(gone, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        stream = await connect(target(Settings(redis_url=f"redis://127.0.0.1:{port}")))
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionResetError):
            await stream.hand_over(asyncio.Protocol())
        stream.transport.abort()


async def test_a_password_a_user_and_a_database(make_link: MakeLink) -> None:
    with redis_server("--requirepass", "p@ss/word") as server:
        link = make_link(f"redis://:p%40ss%2Fword@127.0.0.1:{server.port}/3")
        await both_ways(link)
        await link.execute("SET", "k", "in three")
        assert server.execute("EXISTS", "k") == 0
        server.execute("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
        await both_ways(make_link(f"redis://app:secret@127.0.0.1:{server.port}"))


async def test_a_password_in_a_file_says_nothing_in_the_drivers_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "redis-url"
    monkeypatch.setenv("HOLDFAST_REDIS_URL_FILE", str(path))
    with redis_server("--requirepass", "first") as server:
        path.write_text(f"redis://:first@127.0.0.1:{server.port}\n")
        link = Link(Settings(redis_timeout=5))
        try:
            await both_ways(link)
        finally:
            await link.aclose()
    assert not [record for record in caplog.records if record.name.startswith("redis")]


@pytest.mark.slow  # two hold-downs
async def test_a_password_in_a_file_can_be_changed_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "redis-url"
    monkeypatch.setenv("HOLDFAST_REDIS_URL_FILE", str(path))
    with redis_server() as server:

        def is_now(password: str) -> str:
            server.execute("ACL", "SETUSER", "app", "reset", "on", f">{password}", "~*", "+@all")
            return f"redis://app:{password}@127.0.0.1:{server.port}\n"

        path.write_text(is_now("first"))
        link = Link(Settings(redis_timeout=5).override(key_prefix="p:"))
        try:
            await both_ways(link)
            path.write_text(is_now("second"))
            server.execute("CLIENT", "KILL", "TYPE", "normal")
            await until_both_ways(link)
            # Between the two steps of whoever changes it there may be no file for a moment.
            path.unlink()
            server.execute("CLIENT", "KILL", "TYPE", "normal")
            await until_both_ways(link)
            assert "the password that was read last is tried" in caplog.text
        finally:
            await link.aclose()


async def test_a_unix_socket(make_link: MakeLink, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis_server("--unixsocket", str(path)):
        await both_ways(make_link(f"unix://{path}?db=2"))
    gone = make_link(f"unix://{path}")
    assert not await gone.ready()
    assert gone.status.reason in ("unreachable", "refused")


@contextmanager
def tls_server(folder: Path) -> Iterator[tuple[RedisServer, int]]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    holder = reserve_port()
    port = holder.getsockname()[1]
    with holder, redis_server(
        "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no",
    ) as server:  # fmt: skip
        yield server, port


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_tls(make_link: MakeLink, tmp_path: Path, anyio_backend: object) -> None:
    with tls_server(tmp_path) as (server, port):
        trusted = f"rediss://localhost:{port}?ssl_ca_certs={tmp_path}/cert.pem"
        link = make_link(trusted)
        await both_ways(link)
        value = os.urandom(1_000_000)
        assert await link.execute("SET", "big", value) == b"OK"
        assert await link.execute("GET", "big") == value
        assert await asyncio.to_thread(link.execute_sync, "GET", "big") == value
        listener = Listener(link, lambda *_: None, lambda: None)
        await listener.add("c")
        assert await link.execute("PUBLISH", "c", "x") == 1
        # An idle TLS connection that has been closed is found out, not taken for an outage.
        server.execute("CLIENT", "KILL", "TYPE", "normal")
        await asyncio.sleep(0.05)
        await both_ways(link)
        await listener.aclose()
        unchecked = f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none&ssl_check_hostname=false"
        await both_ways(make_link(unchecked))
        doubtful = make_link(f"rediss://localhost:{port}", timeout=2.0)
        assert not await doubtful.ready()
        assert doubtful.status.reason == "tls"
        plain = make_link(f"redis://localhost:{port}", timeout=2.0)
        assert not await plain.ready()


async def test_a_certificate_of_the_client(make_link: MakeLink, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with reserve_port() as holder, redis_server(*made.server_options(holder)):
        place = f"rediss://localhost:{holder.getsockname()[1]}"
        await both_ways(make_link(f"{place}?{made.client_query}"))
        without = make_link(f"{place}?{made.trust_query}")
        assert not await without.ready()
        assert without.status.reason == "tls"


def test_a_url_that_no_link_can_be_made_of_is_told() -> None:
    with pytest.raises(ConfigurationError, match="HOLDFAST_REDIS_URL is not set"):
        Link(Settings(redis_url=None))


def test_making_a_link_connects_nothing_and_starts_nothing(free_port: int) -> None:
    code = (
        "import threading, sys\n"
        "from holdfast.link import Link\n"
        "from holdfast.settings import Settings\n"
        f"link = Link(Settings(redis_url='redis://127.0.0.1:{free_port}'))\n"
        "assert threading.active_count() == 1\n"
        "assert link.status.state.value == 'starting' and not link.up\n"
        "link.close()\n"
    )
    start = time.monotonic()
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=20)
    assert time.monotonic() - start < 10
