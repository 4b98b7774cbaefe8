"""Redis refuses, hangs up, says nothing, says no, and comes back: what callers and the gate see."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from tests.link.conftest import until, until_sync
from tests.link.flapping import flap

from holdfast.errors import RedisReplyError, RedisUnavailable
from holdfast.link import Link, LinkState, LinkStatus, Recovery, Script
from holdfast.link.supervisor import HOLD_DOWN
from holdfast.testing import FaultProxy, redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.link.conftest import MakeLink

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

# Of a link whose deadline is to pass: long enough for a busy machine to answer within it.
TIMEOUT = 1.0
# Two glances of a few milliseconds, and a busy machine; less than another deadline.
SLACK = 0.8


@contextlib.contextmanager
def taking_at_most(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def states(link: Link) -> list[LinkStatus]:
    seen: list[LinkStatus] = []
    link.on_transition(seen.append)
    return seen


async def test_nobody_there_is_told_at_once_and_noticed_when_it_comes(
    fresh_redis: RedisServer, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "holdfast.link")
    fresh_redis.stop()
    link = make_link(fresh_redis.url)
    with taking_at_most(TIMEOUT), pytest.raises(RedisUnavailable) as refused:
        await link.execute("PING")
    assert refused.value.reason == link.status.reason == "refused"
    assert link.status.state is LinkState.DOWN
    assert [record.getMessage() for record in caplog.records] == [
        (
            "Redis is unavailable (refused): nothing is asked of it until a probe finds it back"
            " (docs/production/outages.md says what goes on meanwhile)"
        )
    ]
    fresh_redis.start()
    await until(lambda: link.up)
    assert await link.execute("PING") == b"PONG"
    # It is told after it is so.
    await until(lambda: len(caplog.records) > 1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.records[1].getMessage().startswith("Redis is back after ")


async def test_a_well_redis_is_one_line_of_information(
    redis: RedisServer, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "holdfast.link")
    link = make_link(redis.url)
    assert await link.ready()
    await until(lambda: caplog.records)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("INFO", "Redis is up")]


async def test_a_killed_redis_opens_the_link_at_once_and_costs_nothing_then(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(fresh_redis.url)
    assert await link.execute("PING") == b"PONG"
    fresh_redis.kill()
    with taking_at_most(TIMEOUT), pytest.raises(RedisUnavailable) as error:
        await link.execute("PING")
    assert error.value.reason in ("refused", "reset")
    assert not link.up
    with taking_at_most(2.0):
        for _ in range(1000):
            with pytest.raises(RedisUnavailable):
                await link.execute("PING")
    fresh_redis.start()
    await until(lambda: link.up)
    assert await link.execute("PING") == b"PONG"


async def test_while_down_no_command_touches_the_network(
    redis: RedisServer, make_link: MakeLink
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}", timeout=TIMEOUT)
        await link.execute("PING")
        proxy.blackhole()
        with pytest.raises(RedisUnavailable):
            await link.execute("PING")
        await until(lambda: link.status.state is LinkState.DOWN)
        before = proxy.request_bytes
        # Long enough for a hundred commands, too short for ten probes.
        for _ in range(100):
            with pytest.raises(RedisUnavailable):
                await link.execute("ECHO", "x" * 1000)
        assert proxy.request_bytes - before < 1000


async def test_a_reply_lost_with_its_connection_is_not_asked_for_again(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}")
        await link.execute("PING")
        proxy.blackhole("replies")
        counted = link.send("INCR", f"{key_prefix}n")
        threaded = asyncio.create_task(
            asyncio.to_thread(link.execute_sync, "INCR", f"{key_prefix}t")
        )
        await until(lambda: redis.execute("GET", f"{key_prefix}n") == b"1")
        await until(lambda: redis.execute("GET", f"{key_prefix}t") == b"1")
        proxy.cut(reset=True)
        for waiting in (counted, threaded):
            with pytest.raises(RedisUnavailable) as error:
                await waiting
            assert error.value.reason == "reset"
        assert not link.up
        proxy.heal()
        await until(lambda: link.up)
        assert await link.execute("GET", f"{key_prefix}n") == b"1"
        assert await link.execute("GET", f"{key_prefix}t") == b"1"


@pytest.mark.parametrize("fault", ["reset", "refuse", "cut"])
async def test_a_closed_connection_is_noticed(
    redis: RedisServer, make_link: MakeLink, fault: str
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}")
        await link.execute("PING")
        proxy.blackhole()
        waiting = link.send("PING")
        await asyncio.sleep(0)
        getattr(proxy, fault)()
        with taking_at_most(TIMEOUT), pytest.raises(RedisUnavailable) as error:
            await waiting
        assert error.value.reason == "reset"
        assert not link.up


async def test_a_black_hole_costs_one_deadline_per_caller(
    redis: RedisServer, make_link: MakeLink
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}", timeout=TIMEOUT)
        await link.execute("PING")
        seen = states(link)
        proxy.blackhole()
        with taking_at_most(TIMEOUT + SLACK):
            answers = await asyncio.gather(
                *[link.execute("PING") for _ in range(50)], return_exceptions=True
            )
        assert {getattr(each, "reason", None) for each in answers} == {"timeout"}
        # Until an immediate probe has answered, requests are served as in DOWN.
        assert not link.up
        await until(lambda: link.status.state is LinkState.DOWN)
        assert link.status.reason == "timeout"
        assert seen[0].state is LinkState.SUSPECT
        proxy.heal()
        await until(lambda: link.up)
        assert await link.execute("ECHO", "mine") == b"mine"


async def test_a_black_hole_from_the_start_costs_one_deadline(
    redis: RedisServer, make_link: MakeLink
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        proxy.blackhole()
        link = make_link(f"redis://:secret@127.0.0.1:{proxy.port}", timeout=TIMEOUT)
        with taking_at_most(TIMEOUT + SLACK), pytest.raises(RedisUnavailable) as error:
            await link.execute("PING")
        assert error.value.reason in ("timeout", "starting")
        await until(lambda: link.status.state is LinkState.DOWN)


@pytest.mark.slow
@pytest.mark.parametrize("trip", [0.6, 0.45], ids=["two-too-long", "two-in-time-and-three-not"])
async def test_a_connect_slower_than_the_deadline_is_finished_for_the_commands_that_follow(
    make_link: MakeLink, trip: float
) -> None:
    """AUTH, SELECT and a command over a slow network: each is in time, all of them are not."""
    with (
        redis_server("--requirepass", "pw") as server,
        FaultProxy.threaded("127.0.0.1", server.port) as proxy,
    ):
        proxy.delay(trip)
        link = make_link(f"redis://:pw@127.0.0.1:{proxy.port}/1", timeout=TIMEOUT)
        link.start()
        await until(lambda: link.up)
        for send in (link.execute, lambda *args: asyncio.to_thread(link.execute_sync, *args)):
            with taking_at_most(TIMEOUT + SLACK), pytest.raises(RedisUnavailable) as error:
                await send("ECHO", "too early")
            assert error.value.reason == "timeout"
            # The next one may be as early; each that began anew would be, too.
            last = time.monotonic() + 15
            reply: object = None
            while reply is None:
                assert time.monotonic() < last, "no connect is ever finished"
                await until(lambda: link.up)
                with contextlib.suppress(RedisUnavailable):
                    reply = await send("ECHO", "in time")
            assert reply == b"in time"


async def test_a_black_hole_costs_a_thread_one_deadline(
    redis: RedisServer, make_link: MakeLink
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}", timeout=TIMEOUT)
        await asyncio.to_thread(link.execute_sync, "PING")
        proxy.blackhole()
        with taking_at_most(TIMEOUT + SLACK), pytest.raises(RedisUnavailable) as error:
            await asyncio.to_thread(link.execute_sync, "PING")
        assert error.value.reason == "timeout"
        assert not link.up


async def test_a_frozen_redis_is_a_timeout_and_its_late_replies_reach_nobody(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(fresh_redis.url, timeout=TIMEOUT)
    await link.execute("PING")
    fresh_redis.freeze()
    waiting = [link.send("ECHO", f"old {n}") for n in range(20)]
    with taking_at_most(TIMEOUT + SLACK):
        for each in waiting:
            with pytest.raises(RedisUnavailable):
                await each
    fresh_redis.thaw()
    await until(lambda: link.up)
    for n in range(100):
        assert await link.execute("ECHO", n) == b"%d" % n


async def test_a_pause_shorter_than_the_deadline_is_no_outage(make_link: MakeLink) -> None:
    with redis_server("--enable-debug-command", "yes") as server:
        link = make_link(server.url)
        await link.execute("PING")
        seen = states(link)
        answers = await link.pipeline([("DEBUG", "SLEEP", "0.6"), ("ECHO", "after")])
        assert answers == [b"OK", b"after"]
        assert link.up
        assert not seen


async def test_the_deadline_is_for_the_whole_pipeline(
    redis: RedisServer, make_link: MakeLink
) -> None:
    """Replies that trickle, each well within the deadline."""
    trickling = False

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", redis.port)
        try:
            while data := await reader.read(65536):
                downstream.write(data)
                replies = await upstream.read(65536)
                for line in replies.splitlines(keepends=True) if trickling else [replies]:
                    await asyncio.sleep(0.4 if trickling else 0)
                    writer.write(line)
        except ConnectionResetError:
            pass  # what it had asked was given up
        finally:
            downstream.close()
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        link = make_link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=TIMEOUT)
        await link.execute("PING")
        await asyncio.to_thread(link.execute_sync, "PING")
        trickling = True
        with taking_at_most(TIMEOUT + SLACK):
            (answers, threaded) = await asyncio.gather(
                link.pipeline([("PING",)] * 10),
                asyncio.to_thread(link.pipeline_sync, [("PING",)] * 10),
                return_exceptions=True,
            )
        assert isinstance(answers, list)
        told = [getattr(each, "reason", each) for each in answers]
        assert told == [b"PONG"] * 2 + ["timeout"] * 8
        assert isinstance(threaded, RedisUnavailable)
        assert threaded.reason == "timeout"
        await link.aclose()


async def test_one_slow_command_does_not_end_in_down_when_a_probe_answers(
    make_link: MakeLink,
) -> None:
    with redis_server("--enable-debug-command", "yes") as server:
        link = make_link(server.url, timeout=TIMEOUT)
        await link.execute("PING")
        recoveries: list[float] = []
        link.on_recovery("count", lambda _: recoveries.append(time.monotonic()))
        seen = states(link)
        slow = link.send("DEBUG", "SLEEP", "1.3")
        with pytest.raises(RedisUnavailable):
            await slow
        await until(lambda: LinkState.UP in [each.state for each in seen])
        assert [each.state for each in seen] == [
            LinkState.SUSPECT,
            LinkState.RECOVERING,
            LinkState.UP,
        ]
        # What was served as in DOWN meanwhile has been replayed.
        assert len(recoveries) == 1


async def test_a_late_reply_reaches_nobody_and_the_one_behind_it_its_caller(
    make_link: MakeLink,
) -> None:
    with redis_server("--enable-debug-command", "yes") as server:
        link = make_link(server.url, timeout=TIMEOUT)
        await link.execute("PING")
        late = link.send("DEBUG", "SLEEP", "1.3")
        await asyncio.sleep(0.6)
        behind = [link.send("ECHO", n) for n in range(3)]
        with pytest.raises(RedisUnavailable):
            await late
        assert await asyncio.gather(*behind) == [b"0", b"1", b"2"]
        await until(lambda: link.up)
        assert await link.execute("ECHO", "anew") == b"anew"


async def test_what_expires_in_turn_expires_in_time(
    redis: RedisServer, make_link: MakeLink
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}", timeout=TIMEOUT)
        await link.execute("PING")
        proxy.blackhole()
        first = link.send("PING")
        await asyncio.sleep(0.6)
        second = link.send("PING")
        with taking_at_most(0.4 + SLACK), pytest.raises(RedisUnavailable):
            await first
        with taking_at_most(0.6 + SLACK), pytest.raises(RedisUnavailable):
            await second


@pytest.mark.slow
async def test_our_own_late_loop_is_not_an_outage(redis: RedisServer, make_link: MakeLink) -> None:
    link = make_link(redis.url, timeout=TIMEOUT)
    await link.execute("PING")
    seen = states(link)
    queued = [link.send("ECHO", n) for n in range(10)]
    time.sleep(2 * TIMEOUT)
    assert await asyncio.gather(*queued) == [b"%d" % n for n in range(10)]
    sent = [link.send("ECHO", n) for n in range(10)]
    await asyncio.sleep(0)
    time.sleep(2 * TIMEOUT)
    assert await asyncio.gather(*sent) == [b"%d" % n for n in range(10)]
    assert link.up
    assert not seen


async def test_a_late_loop_that_has_yet_to_connect_is_not_an_outage(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(redis.url, timeout=TIMEOUT)
    assert await link.ready()
    seen = states(link)
    first = link.send("ECHO", "first")
    await asyncio.sleep(0)
    time.sleep(2 * TIMEOUT)
    assert await first == b"first"
    assert not seen


@pytest.mark.parametrize("thread", [False, True])
async def test_a_demoted_master_is_an_outage(
    fresh_redis: RedisServer, make_link: MakeLink, key_prefix: str, thread: bool
) -> None:
    link = make_link(fresh_redis.url)
    await link.execute("PING")
    with redis_server() as master:
        fresh_redis.execute("REPLICAOF", "127.0.0.1", master.port)
        writing = (
            asyncio.to_thread(link.execute_sync, "SET", f"{key_prefix}k", 1)
            if thread
            else link.execute("SET", f"{key_prefix}k", 1)
        )
        with pytest.raises(RedisUnavailable) as error:
            await writing
        assert error.value.reason == "readonly"
        assert link.status.reason == "readonly"
        fresh_redis.execute("REPLICAOF", "NO", "ONE")
    await until(lambda: link.up)
    assert await link.execute("SET", f"{key_prefix}k", 1) == b"OK"


async def test_an_outage_inside_a_script_is_an_outage(
    fresh_redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(fresh_redis.url)
    script = Script("set", "return redis.call('SET', KEYS[1], 1)")
    await link.run(script, [f"{key_prefix}k"])
    fresh_redis.execute("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(RedisUnavailable) as error:
        await link.run(script, [f"{key_prefix}k"])
    assert error.value.reason == "out_of_memory"


@pytest.mark.parametrize("thread", [False, True])
async def test_the_deadline_holds_for_a_script_that_is_sent_twice(
    fresh_redis: RedisServer, make_link: MakeLink, thread: bool
) -> None:
    slow = Script(
        "slow",
        "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end "
        "local e = now() + 1600 while now() < e do end return 1",
    )
    link = make_link(fresh_redis.url, timeout=TIMEOUT)
    await link.execute("PING")
    running = asyncio.to_thread(link.run_sync, slow, []) if thread else link.run(slow, [])
    with taking_at_most(TIMEOUT + SLACK), pytest.raises(RedisUnavailable) as error:
        await running
    assert error.value.reason == "timeout"


async def test_a_user_that_may_not_ask_for_commands_is_served(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    fresh_redis.execute("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-command")
    link = make_link(f"redis://app:pw@127.0.0.1:{fresh_redis.port}")
    assert await link.execute("PING") == b"PONG"


@pytest.mark.slow
async def test_a_quiet_link_notices_a_full_redis_by_itself(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(fresh_redis.url)
    assert await link.ready()
    fresh_redis.execute("CONFIG", "SET", "maxmemory", 1)
    await until(lambda: link.status.state is LinkState.DOWN)
    assert link.status.reason == "out_of_memory"
    fresh_redis.execute("CONFIG", "SET", "maxmemory", 0)
    await until(lambda: link.up)


async def test_a_quiet_link_notices_a_frozen_redis_by_itself(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(fresh_redis.url, timeout=TIMEOUT)
    assert await link.ready()
    fresh_redis.freeze()
    await until(lambda: link.status.state is LinkState.DOWN)
    assert link.status.reason == "timeout"
    fresh_redis.thaw()


@pytest.mark.parametrize(
    ("login", "options", "reason", "remedy"),
    [
        ("", ["--requirepass", "right"], "auth", "the user and the password in HOLDFAST_REDIS_URL"),
        (":wr0ng@", ["--requirepass", "right"], "auth", "the user and the password"),
        ("nob0dy:wr0ng@", [], "auth", "the user and the password"),
        ("", ["--rename-command", "XADD", ""], "unsupported", "Redis 5.0 or newer"),
        ("", ["--databases", "1"], "database", "names a database"),
        ("", ["--rename-command", "SET", ""], "canary", "until a probe finds it back"),
        ("", ["--user", "default", "on", "nopass", "~*", "+@all", "-set"], "auth", "user may do"),
    ],
)  # fmt: skip
async def test_what_a_person_must_mend_is_told_with_its_remedy_and_without_a_secret(
    make_link: MakeLink,
    caplog: pytest.LogCaptureFixture,
    login: str,
    options: list[str],
    reason: str,
    remedy: str,
) -> None:
    with redis_server(*options) as server:
        link = make_link(f"redis://{login}127.0.0.1:{server.port}/1")
        with pytest.raises(RedisUnavailable) as error:
            await link.execute("PING")
        assert error.value.reason == reason
        (line,) = [record.getMessage() for record in caplog.records]
        assert remedy in line
        for secret in ("wr0ng", "nob0dy", "127.0.0.1", str(server.port)):
            assert secret not in f"{line} {error.value} {error.value.detail} {link!r} {link.target}"


@pytest.mark.slow
async def test_a_server_without_room_for_another_client_is_an_outage(make_link: MakeLink) -> None:
    with redis_server("--maxclients", "1") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as only:
            only.sendall(b"PING\r\n")
            assert only.recv(100) == b"+PONG\r\n"
            link = make_link(server.url)
            assert not await link.ready()
            assert link.status.reason in ("max_clients", "reset")
        server.execute("CONFIG", "SET", "maxclients", 100)
        await until(lambda: link.up)


async def test_a_loading_redis_is_an_outage(make_link: MakeLink) -> None:
    with redis_server("--key-load-delay", "400", "--loading-process-events-interval-bytes", "1024",
                      "--enable-debug-command", "yes") as server:  # fmt: skip
        server.execute("DEBUG", "POPULATE", 5000)
        server.execute("SAVE")
        server.kill()
        starting = threading.Thread(target=server.start)
        link = make_link(server.url)
        link.start()
        starting.start()
        try:
            await until(lambda: link.status.reason == "refused")
            reasons = {"refused"}
            while not link.up:
                with pytest.raises(RedisUnavailable) as error:
                    await asyncio.to_thread(_probe_anew, make_link, server.url)
                reasons.add(error.value.reason)
                if "loading" in reasons:
                    break
            assert "loading" in reasons
        finally:
            await asyncio.to_thread(starting.join)


def _probe_anew(make_link: MakeLink, url: str) -> None:
    make_link(url).execute_sync("SET", "x", 1)


async def test_something_that_is_no_redis_is_an_outage(make_link: MakeLink) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    async with server:
        link = make_link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert not await link.ready()
        assert link.status.reason in ("protocol", "reset")
        await link.aclose()


async def test_redis_turning_into_something_else_is_an_outage(
    redis: RedisServer, make_link: MakeLink
) -> None:
    """Bytes that nobody asked for: from then on no reply can be told from another."""
    noise = [b""]

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", redis.port)
        try:
            while data := await reader.read(65536):
                downstream.write(data)
                writer.write(noise[0] + await upstream.read(65536) + noise[0])
        except ConnectionResetError:
            pass  # what it had asked was given up
        finally:
            downstream.close()
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        link = make_link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await link.execute("ECHO", "a") == b"a"
        noise[0] = b"+STRAY\r\n"
        await link.pipeline([("ECHO", "b")])
        await until(lambda: not link.up)
        assert link.status.reason in ("protocol", "canary", "reset")
        noise[0] = b""
        await until(lambda: link.up)
        assert await link.execute("ECHO", "c") == b"c"
        await link.aclose()


async def test_hooks_run_in_order_before_the_gate_opens_at_the_first_time_and_after_each_outage(
    fresh_redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link, ran = make_link(fresh_redis.url), list[object]()

    def first(recovery: Recovery) -> None:
        ran.append(("first", link.up, recovery.execute("INCR", f"{key_prefix}n")))

    def failing(recovery: Recovery) -> None:
        ran.append("failing")
        with pytest.raises(RedisReplyError):
            recovery.execute("LPUSH", f"{key_prefix}n", 1)
        raise ValueError("a bug")

    def last(recovery: Recovery) -> None:
        script = Script("again", "return redis.call('GET', KEYS[1])")
        ran.append(recovery.run(script, [f"{key_prefix}n"], []))
        with pytest.raises(RedisReplyError):
            recovery.run(Script("no", "return redis.error_reply('NO')"), [], [])
        answers = recovery.pipeline([("NONSENSE",), ("GET", f"{key_prefix}n")])
        assert isinstance(answers[0], RedisReplyError)
        ran.append(answers[1])

    link.on_recovery("first", first)
    link.on_recovery("failing", failing)
    link.on_recovery("last", last)
    link.on_recovery("first", first)
    assert await link.ready()
    assert ran == [("first", False, 1), "failing", b"1", b"1"]
    ran.clear()
    fresh_redis.kill()
    with pytest.raises(RedisUnavailable):
        await link.execute("PING")
    fresh_redis.start()
    await until(lambda: link.up)
    assert ran == [("first", False, 1), "failing", b"1", b"1"]


async def test_a_long_recovery_keeps_the_gate_shut_and_nobody_waiting_for_long(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link, done = make_link(redis.url, timeout=TIMEOUT), threading.Event()

    def hook(_: Recovery) -> None:
        done.wait(30)

    link.on_recovery("long", hook)
    with taking_at_most(TIMEOUT + SLACK):
        assert not await link.ready()
    with taking_at_most(TIMEOUT + SLACK), pytest.raises(RedisUnavailable):
        await asyncio.to_thread(link.execute_sync, "PING")
    with taking_at_most(TIMEOUT + SLACK), pytest.raises(RedisUnavailable):
        await link.execute("PING")
    assert link.status.state is LinkState.RECOVERING
    done.set()
    await until(lambda: link.up)


async def test_an_outage_during_recovery_is_down_again_and_the_hooks_run_again(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    link, attempts = make_link(fresh_redis.url), list[float]()
    seen = states(link)

    def hook(recovery: Recovery) -> None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            fresh_redis.kill()
        recovery.execute("PING")

    link.on_recovery("killer", hook)
    assert not await link.ready()
    await until(lambda: len(seen) == 2)
    assert [each.state for each in seen] == [LinkState.RECOVERING, LinkState.DOWN]
    fresh_redis.start()
    await until(lambda: link.up)
    assert len(attempts) == 2
    assert attempts[1] - attempts[0] >= HOLD_DOWN


async def test_an_outage_reply_during_recovery_is_down_again(
    fresh_redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(fresh_redis.url)

    def hook(recovery: Recovery) -> None:
        fresh_redis.execute("CONFIG", "SET", "maxmemory", 1)
        recovery.pipeline([("PING",), ("SET", f"{key_prefix}k", 1)])

    link.on_recovery("fill", hook)
    assert not await link.ready()
    assert link.status.reason == "out_of_memory"


@pytest.mark.slow
async def test_a_flapping_redis_is_at_most_one_pair_of_transitions_per_hold_down(
    redis: RedisServer, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}")
        await link.execute("PING")
        seen = states(link)
        end = time.monotonic() + 2.5 * HOLD_DOWN
        while time.monotonic() < end:
            proxy.refuse()
            await link.pipeline([("PING",)] * 5)
            await asyncio.sleep(0.05)
            proxy.heal()
            await link.pipeline([("PING",)] * 5)
            await asyncio.sleep(0.05)
        downs = [each.since for each in seen if each.state is LinkState.DOWN]
        assert 1 <= len(downs) <= 3
        assert len([r for r in caplog.records if "unavailable" in r.getMessage()]) <= 3
        await until(lambda: link.up)


@pytest.mark.slow
async def test_flapping_five_times_a_second_leaves_nothing_behind(
    fresh_redis: RedisServer, key_prefix: str
) -> None:
    outcome = await flap(fresh_redis, key_prefix, 6.0)
    assert 1 <= len(outcome.downs) <= 6.0 / HOLD_DOWN + 2
    assert outcome.shortest_gap >= HOLD_DOWN * 0.95
    assert outcome.refused
    assert outcome.after.tasks <= outcome.before.tasks + 1
    assert outcome.after.threads <= outcome.before.threads + 8  # of asyncio.to_thread
    # Idle connections of threads; each has an end in our process at the proxy's two sockets.
    assert outcome.after.clients <= outcome.before.clients + 4
    assert outcome.after.descriptors <= outcome.before.descriptors + 16


def _full(server: RedisServer) -> None:
    server.execute("CONFIG", "SET", "maxmemory", 1)


def _alone(server: RedisServer) -> None:
    server.execute("CONFIG", "SET", "min-replicas-to-write", 1)


def _not_allowed(server: RedisServer) -> None:
    server.execute("ACL", "SETUSER", "default", "-set")


def _cannot_save(server: RedisServer) -> None:
    """A snapshot whose file is taken by a folder."""
    (server.directory / "dump.rdb").mkdir()
    server.execute("CONFIG", "SET", "save", "1 1")
    server.execute("SET", "unsaved", 1)
    server.execute("BGSAVE")
    until_sync(lambda: b"rdb_last_bgsave_status:err" in _info(server, "persistence"), 15)


def _info(server: RedisServer, section: str) -> bytes:
    told = server.execute("INFO", section)
    assert isinstance(told, bytes)
    return told


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (_full, "out_of_memory"),
        (_alone, "no_replicas"),
        (_not_allowed, "auth"),
        (_cannot_save, "misconf"),
    ],
    ids=["out_of_memory", "no_replicas", "auth", "misconf"],
)
async def test_a_redis_that_will_not_write_is_away(
    fresh_redis: RedisServer,
    make_link: MakeLink,
    key_prefix: str,
    fault: Callable[[RedisServer], None],
    reason: str,
) -> None:
    link = make_link(fresh_redis.url, timeout=5.0)
    assert await link.execute("SET", f"{key_prefix}k", 1) == b"OK"
    await asyncio.to_thread(fault, fresh_redis)
    with pytest.raises(RedisUnavailable):
        await link.execute("SET", f"{key_prefix}k", 2)
    await until(lambda: link.status.state is LinkState.DOWN, 15)
    assert link.status.reason == reason
    fresh_redis.kill()  # one that cannot save will not stop either


async def test_a_subscriber_that_fails_hurts_neither_the_link_nor_the_others(
    fresh_redis: RedisServer, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    link, told = make_link(fresh_redis.url), list[LinkState]()

    def broken(_: LinkStatus) -> None:
        raise ValueError("a bug")

    link.on_transition(broken)
    unsubscribe = link.on_transition(lambda status: told.append(status.state))
    assert await link.ready()
    await until(lambda: LinkState.UP in told)
    assert "a subscriber to the link's transitions failed" in caplog.text
    unsubscribe()
    unsubscribe()
    fresh_redis.kill()
    with pytest.raises(RedisUnavailable):
        await link.execute("PING")
    assert told == [LinkState.RECOVERING, LinkState.UP]


class _Broken(logging.Handler):
    """A log handler that fails once, as one on a full disk does."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            raise OSError("no space left on device")


def test_the_supervisor_survives_what_kills_a_thread(
    free_port: int, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    link, handler = make_link(f"redis://127.0.0.1:{free_port}"), _Broken()
    logger = logging.getLogger("holdfast.link")
    logger.addHandler(handler)
    try:
        link.start()
        until_sync(lambda: "the supervisor of the link to Redis failed" in caplog.text)
        assert any(thread.name == "holdfast-link" for thread in threading.enumerate())
    finally:
        logger.removeHandler(handler)


async def test_a_closed_link_answers_nobody_and_says_why(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(redis.url, timeout=10.0)
    await link.execute("PING")
    waiting = link.send("PING")
    with taking_at_most(5.0):
        await link.aclose()
    for future in (waiting, link.send("PING")):
        with pytest.raises(RedisUnavailable) as error:
            await future
        assert error.value.reason == "closed"
    with pytest.raises(RedisUnavailable):
        await link.execute("PING")
    with pytest.raises(RedisUnavailable):
        await asyncio.to_thread(link.execute_sync, "PING")
    await link.aclose()
    await until(lambda: "holdfast-link" not in {each.name for each in threading.enumerate()})
