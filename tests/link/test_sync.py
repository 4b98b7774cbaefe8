"""Commands of threads: the same gate, the same deadline, the same words for what goes wrong."""

from __future__ import annotations

import select
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.link.conftest import until_sync

from holdfast.errors import RedisReplyError, RedisUnavailable
from holdfast.link import Script
from holdfast.link.client import target
from holdfast.link.supervisor import Gate
from holdfast.link.sync import SyncConversation, SyncLane
from holdfast.settings import Settings
from holdfast.testing import FaultProxy, redis_server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.link.conftest import MakeLink

    from holdfast.testing import RedisServer


def test_commands_and_errors(redis: RedisServer, make_link: MakeLink, key_prefix: str) -> None:
    link, key = make_link(redis.url), f"{key_prefix}k"
    assert link.execute_sync("SET", key, "v") == b"OK"
    with pytest.raises(RedisReplyError):
        link.execute_sync("LPUSH", key, 1)
    answers = link.pipeline_sync([("GET", key), ("LPUSH", key, 1), ("GET", key)])
    assert answers[0] == answers[2] == b"v"
    assert isinstance(answers[1], RedisReplyError)
    with pytest.raises(TypeError):
        link.execute_sync("SET", key, None)  # type: ignore[arg-type]
    assert link.execute_sync("GET", key) == b"v"


def test_scripts(redis: RedisServer, make_link: MakeLink, key_prefix: str) -> None:
    link, key = make_link(redis.url), f"{key_prefix}n"
    script = Script("incr", "return redis.call('INCR', KEYS[1])")
    assert link.run_sync(script, [key]) == 1
    redis.execute("SCRIPT", "FLUSH")
    assert link.run_sync(script, [key]) == 2
    with pytest.raises(RedisReplyError):
        link.run_sync(Script("bad", "return redis.error_reply('NO way')"), [key])


def test_a_value_of_ten_megabytes(redis: RedisServer, make_link: MakeLink, key_prefix: str) -> None:
    link, value = make_link(redis.url, timeout=10.0), b"\x00\r\n" * 3_500_000
    link.execute_sync("SET", f"{key_prefix}big", value, "PX", 60_000)
    assert link.execute_sync("GET", f"{key_prefix}big") == value


_GREENLETS = """
from gevent import monkey, sleep, spawn
monkey.patch_all()
import sys, time
from holdfast.link.client import target
from holdfast.link.sync import SyncConversation
from holdfast.settings import Settings

select = monkey.get_original("select", "select")

class Caught:
    # A connection where whoever looks finds the reply, so that a look is always worth it.
    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def recv(self, size):
        if self._real.gettimeout() == 0:
            select([self._real.fileno()], [], [])
        return self._real.recv(size)

conversation, turns = SyncConversation.open(target(Settings(redis_url=sys.argv[1])), 20), []
conversation._socket = Caught(conversation._socket)

def others():
    while True:
        turns.append(None)
        sleep(0)

other = spawn(others)
sleep(0)
turns.clear()
for _ in range(200):
    script = "for n = 1, 20000 do end return 1"
    assert conversation.call([("EVAL", script, 0)], time.monotonic() + 20) == [1]
print(len(turns))
other.kill()
conversation.close()
"""


def test_a_greenlet_that_waits_for_redis_lets_the_others_go_on(redis: RedisServer) -> None:
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", _GREENLETS, redis.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # With a look for each of them it would be none.
    assert int(done.stdout) >= 20


class _Late:
    """A connection that has who sends by it sleep until there is something to be read."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, data: bytes) -> int:
        sent = self._real.send(data)
        assert select.select([self._real], [], [], 15)[0]
        return sent


def test_a_thread_that_is_late_itself_still_gets_the_reply_that_is_there(
    redis: RedisServer,
) -> None:
    place = target(Settings(redis_url=redis.url))
    conversation = SyncConversation.open(place, 15.0)
    conversation._socket = _Late(conversation._socket)  # type: ignore[assignment]
    for _ in range(4):
        conversation._spin.missed()  # it has learnt not to look before it waits
    try:
        past = time.monotonic() - 1
        assert conversation.call([("ECHO", "there")], past) == [b"there"]
        with pytest.raises(RedisUnavailable) as error:
            conversation.call([("GETRANGE", "absent", 0, 0), ("BLPOP", "absent", 1)], past)
        assert error.value.reason == "timeout"
    finally:
        conversation.close()


def test_a_connection_that_ends_in_mid_command_is_a_reset(
    redis: RedisServer, make_link: MakeLink
) -> None:
    with FaultProxy.threaded("127.0.0.1", redis.port) as proxy:
        link = make_link(f"redis://127.0.0.1:{proxy.port}")
        link.execute_sync("PING")
        proxy.blackhole("replies")
        cutting = threading.Timer(0.05, proxy.cut)
        cutting.start()
        with pytest.raises(RedisUnavailable) as error:
            link.execute_sync("PING")
        assert error.value.reason == "reset"
        cutting.join()


def test_a_connection_that_answered_just_now_is_used_without_a_look_and_no_other(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(fresh_redis.url, timeout=5.0)
    link.execute_sync("PING")
    assert isinstance(link._threads, SyncLane)
    (conversation,) = link._threads._idle
    fresh_redis.execute("CLIENT", "KILL", "TYPE", "normal")
    # As if it had been used long ago: it is looked at, and another is opened.
    conversation.used = 0.0
    assert link.execute_sync("PING") == b"PONG"
    (conversation,) = link._threads._idle
    fresh_redis.execute("CLIENT", "KILL", "TYPE", "normal")
    # As if this moment were still that of its last answer: it is found out by the command itself.
    conversation.used = time.monotonic() + 60
    with pytest.raises(RedisUnavailable) as error:
        link.execute_sync("PING")
    assert error.value.reason == "reset"


def test_a_hundred_threads_get_their_own_replies(redis: RedisServer, make_link: MakeLink) -> None:
    link = make_link(redis.url)
    wrong: list[object] = []

    def ask(me: int) -> None:
        asked = [f"{me}:{n}".encode() for n in range(20)]
        got = [link.execute_sync("ECHO", each) for each in asked]
        wrong.extend([] if got == asked else got)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # What a crowd has opened is not kept for ever.
    assert isinstance(link._threads, SyncLane)
    assert len(link._threads._idle) <= 64


def too_early(call: Callable[..., object]) -> None:
    """Have a command wait for a connect that is slow, and be given up on its way."""
    with pytest.raises(RedisUnavailable) as error:
        call()
    assert error.value.reason == "timeout"


@pytest.fixture
def far() -> Iterator[tuple[RedisServer, FaultProxy, str]]:
    """A Redis with a password behind a slow network, the way there, and its URL."""
    with (
        redis_server("--requirepass", "pw") as server,
        FaultProxy.threaded("127.0.0.1", server.port) as proxy,
    ):
        proxy.delay(0.45)
        yield server, proxy, f"redis://:pw@127.0.0.1:{proxy.port}/1"


def test_a_new_connection_that_ends_while_it_owes_a_reply_is_no_outage(
    far: tuple[RedisServer, FaultProxy, str],
) -> None:
    _, proxy, url = far
    gate, told, place = Gate(), list[RedisUnavailable](), target(Settings(redis_url=url))
    gate.up = True
    lane = SyncLane(lambda: place, 1.0, gate, lambda error, _: told.append(error))
    too_early(lambda: lane.call([("ECHO", "too early")], time.monotonic() + 1.0))
    (conversation,) = lane._owing
    proxy.cut()
    proxy.delay(0)
    until_sync(conversation.stale)
    assert lane.call([("ECHO", "mine")], time.monotonic() + 15) == [b"mine"]
    assert not told
    lane.close()


def test_a_new_connection_is_not_waited_for_longer_than_one_timeout(
    far: tuple[RedisServer, FaultProxy, str],
) -> None:
    _, proxy, url = far
    gate, place = Gate(), target(Settings(redis_url=url))
    gate.up = True
    lane = SyncLane(lambda: place, 1.0, gate, lambda error, _: None)
    too_early(lambda: lane.call([("ECHO", "too early")], time.monotonic() + 1.0))
    proxy.blackhole("replies")
    (conversation,) = lane._owing
    assert not conversation.stale()
    until_sync(conversation.stale)
    lane.close()
    assert not lane._owing


def test_what_was_given_up_on_a_new_connection_goes_no_further_in_an_outage(
    far: tuple[RedisServer, FaultProxy, str], make_link: MakeLink
) -> None:
    server, _, url = far
    link = make_link(url, timeout=1.0)
    link.start()
    until_sync(lambda: link.up)
    too_early(lambda: link.execute_sync("ECHO", "too early"))
    threads = link._threads
    assert isinstance(threads, SyncLane)
    assert threads._owing
    server.kill()
    until_sync(lambda: not threads._owing)
