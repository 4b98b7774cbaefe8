"""A real server comes up empty, and everything that a test does to it is real."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

import holdfast.testing
from holdfast.testing import RedisServer, redis_server


def test_starts_empty_and_answers_within_a_second(fresh_redis: RedisServer) -> None:
    assert fresh_redis.execute("DBSIZE") == 0
    assert fresh_redis.execute("SET", b"key", 1.5) == b"OK"
    assert fresh_redis.execute("GET", "key") == b"1.5"
    assert fresh_redis.execute("GET", "absent") is None
    assert fresh_redis.execute("KEYS", "*") == [b"key"]
    assert "up" in repr(fresh_redis)
    assert fresh_redis.url == f"redis://127.0.0.1:{fresh_redis.port}/0"


def test_an_error_reply_is_raised_with_its_words(fresh_redis: RedisServer) -> None:
    with pytest.raises(RuntimeError, match=r"^ERR unknown command"):
        fresh_redis.execute("NO-SUCH-COMMAND")


def test_killed_server_refuses_and_comes_back_empty_on_the_same_port() -> None:
    with redis_server() as server:
        port, pid = server.port, server.pid
        server.execute("SET", "a", 1)
        server.kill()
        server.kill()
        assert "down" in repr(server)
        with pytest.raises(ConnectionRefusedError):
            server.execute("PING")
        with pytest.raises(RuntimeError, match="does not run"):
            _ = server.pid
        server.start()
        assert (server.port, server.execute("GET", "a")) == (port, None)
        assert server.pid != pid


def test_append_only_server_keeps_its_data_over_a_kill() -> None:
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        server.execute("SET", "a", 1)
        server.kill()
        server.start()
        assert server.execute("GET", "a") == b"1"


def test_full_or_demoted_server_reads_and_refuses_to_write(fresh_redis: RedisServer) -> None:
    fresh_redis.execute("SET", "a", 1)
    for refuse, word in ((fresh_redis.fill, "OOM"), (fresh_redis.demote, "READONLY")):
        refuse()
        with pytest.raises(RuntimeError, match=f"^{word}"):
            fresh_redis.execute("SET", "a", 2)
        assert fresh_redis.execute("GET", "a") == b"1"
        fresh_redis.relent()
        assert fresh_redis.execute("SET", "a", 1) == b"OK"


def test_restarted_server_has_what_it_kept(fresh_redis: RedisServer) -> None:
    fresh_redis.execute("SET", "a", 1)
    pid = fresh_redis.pid
    fresh_redis.restart()
    assert fresh_redis.pid != pid
    assert fresh_redis.execute("GET", "a") is None


def test_frozen_server_accepts_and_does_not_answer_until_thawed(fresh_redis: RedisServer) -> None:
    fresh_redis.freeze()
    assert fresh_redis.running
    with socket.create_connection(("127.0.0.1", fresh_redis.port), timeout=0.2) as connection:
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        fresh_redis.thaw()
        connection.settimeout(5)
        assert connection.recv(7) == b"+PONG\r\n"


def test_frozen_server_can_be_stopped(fresh_redis: RedisServer) -> None:
    fresh_redis.freeze()
    fresh_redis.stop()
    fresh_redis.stop()
    assert not fresh_redis.running


def test_password_of_the_options_is_used_and_is_in_the_url() -> None:
    with redis_server("--requirepass", "pass") as server:
        assert server.url.startswith("redis://:pass@")
        assert server.execute("PING") == b"PONG"
        server.password = None
        with pytest.raises(RuntimeError, match=r"^NOAUTH"):
            server.execute("PING")


def test_wrong_option_is_told_with_the_log() -> None:
    with (
        pytest.raises(RuntimeError, match=r"no-such-option"),
        redis_server("--no-such-option", "1"),
    ):
        pass


def test_missing_program_is_told_with_its_remedy() -> None:
    with pytest.raises(FileNotFoundError, match=r"no-such-redis is not installed: apt-get install"):
        RedisServer(binary="no-such-redis")


def test_nothing_is_left_behind() -> None:
    with redis_server() as server:
        pid, folder = server.pid, server.directory
        server.start()  # a second start is the same server
        assert server.pid == pid
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_closed_connection_is_an_error_not_an_answer(fresh_redis: RedisServer) -> None:
    with pytest.raises(ConnectionError):
        fresh_redis.execute("SHUTDOWN", "NOSAVE")


def test_a_server_that_is_still_loading_is_waited_for() -> None:
    with redis_server("--save", "3600 1", "--rdbcompression", "no") as first:
        for number in range(10):
            first.execute("SET", f"key{number}", "x" * 2000)
        first.stop()
        # 50 ms a key: it answers LOADING for half a second before it answers PONG.
        slow = RedisServer(
            "--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"
        )
        (first.directory / "dump.rdb").rename(slow.directory / "dump.rdb")
    with contextlib.closing(slow):
        slow.start()
        assert slow.execute("DBSIZE") == 10


def test_any_refusal_but_loading_is_an_answer() -> None:
    with redis_server("--rename-command", "PING", "") as server:
        assert server.execute("DBSIZE") == 0


def test_a_server_that_does_not_stop_is_killed(fresh_redis: RedisServer) -> None:
    # A shutdown waits for its replicas; this one never reads.
    fresh_redis.execute("CONFIG", "SET", "shutdown-timeout", "60")
    with socket.create_connection(("127.0.0.1", fresh_redis.port), timeout=5) as replica:
        replica.sendall(b"PSYNC ? -1\r\n")
        replica.recv(1)
        fresh_redis.execute("SET", "key", "value")
        fresh_redis.stop()
        assert not fresh_redis.running


def test_only_what_is_offered_can_be_imported() -> None:
    assert set(holdfast.testing.__all__) <= set(dir(holdfast.testing))
    absent = "no_such_tool"
    with pytest.raises(AttributeError, match=absent):
        getattr(holdfast.testing, absent)
