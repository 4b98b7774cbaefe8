"""What Redis and its driver say, and what it is called here."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from redis import exceptions as driver

from holdfast.errors import RedisReplyError, RedisUnavailable
from holdfast.link.translate import connect_error, lost, raised, reply_error


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("READONLY You can't write against a read only replica.", "readonly"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "out_of_memory"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:1.",
         "out_of_memory"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("NOAUTH Authentication required.", "auth"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "auth"),
        ("NOPERM User alice has no permissions to run the 'set' command", "auth"),
        ("DENIED Redis is running in protected mode because …", "auth"),
        ("CLUSTERDOWN The cluster is down", "cluster_down"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
         "master_down"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "try_again"),
        ("MISCONF Redis is configured to save RDB snapshots, but …", "misconf"),
        ("NOREPLICAS Not enough good replicas to write.", "no_replicas"),
        ("BUSY Redis is busy running a script.", "busy"),
        ("MOVED 3999 127.0.0.1:6381", "unsupported"),
        ("ASK 3999 127.0.0.1:6381", "unsupported"),
        ("ERR max number of clients reached", "max_clients"),
        ("ERR invalid password", "auth"),
        ("ERR operation not permitted", "auth"),
        ("ERR Protocol error: unauthenticated multibulk length", "auth"),
        ("ERR Protocol error: unauthenticated bulk length", "auth"),
        ("ERR Client sent AUTH, but no password is set", "auth"),
        ("ERR DB index is out of range", "database"),
        ("ERR ACL failure in script: User a has no permissions to run the 'type' command", "auth"),
        # How Redis 5 and 6 wrap what a script met.
        ("ERR Error running script (call to f_1): @user_script:1: -READONLY You …", "readonly"),
        ("ERR Error running script (call to f_1): @user_script: 1: OOM command …", "out_of_memory"),
    ],
)  # fmt: skip
def test_an_outage_is_told_by_its_word(text: str, reason: str) -> None:
    error = reply_error(text)
    assert isinstance(error, RedisUnavailable)
    assert error.reason == reason


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE"),
        ("NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT"),
        ("ERR unknown command 'FOO', with args beginning with: ", "ERR"),
        ("ERR Error running script (call to f_1f): @user_script:1: user_script:1: nil", "ERR"),
        ("ERR Error running script (call to f_1f): @user_script:1: WRONGTYPE Operation …", "ERR"),
        ("EXECABORT Transaction discarded because of previous errors.", "EXECABORT"),
        ("ENDED", "ENDED"),
        ("", ""),
    ],
)
def test_a_no_to_one_command_is_no_outage(text: str, code: str) -> None:
    error = reply_error(text)
    assert isinstance(error, RedisReplyError)
    assert (error.code, str(error)) == (code, text)


def _raised_from(outer: Exception, inner: BaseException) -> Exception:
    outer.__context__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), …"), "refused"),
        (_raised_from(driver.ConnectionError("x"), ConnectionRefusedError()), "refused"),
        (_raised_from(driver.ConnectionError("x"), ConnectionResetError()), "reset"),
        (_raised_from(driver.ConnectionError("x"), EOFError()), "reset"),
        (_raised_from(driver.ConnectionError("x"), socket.gaierror(-2, "unknown")), "unreachable"),
        (_raised_from(driver.ConnectionError("x"), FileNotFoundError()), "unreachable"),
        (_raised_from(driver.ConnectionError("x"), OSError(errno.EHOSTUNREACH, "")), "unreachable"),
        (ssl.SSLCertVerificationError("no"), "tls"),
        (driver.TimeoutError("x"), "timeout"),
        (TimeoutError(), "timeout"),
        (driver.BusyLoadingError("x"), "loading"),
        (driver.AuthenticationError("anything"), "auth"),
        (driver.AuthenticationError("invalid pair", status_code="WRONGPASS"), "auth"),
        (driver.ConnectionError("max number of clients reached"), "max_clients"),
        (driver.ResponseError("DB index is out of range", status_code="ERR"), "database"),
        (driver.ResponseError("whatever", status_code="ERR"), "refused"),
        (RedisUnavailable("readonly"), "readonly"),
        (ValueError("who knows"), "unreachable"),
    ],
)
def test_why_a_connection_could_not_be_opened(error: Exception, reason: str) -> None:
    assert connect_error(error).reason == reason


def test_the_port_and_host_of_an_error_are_not_passed_on() -> None:
    error = OSError("Multiple exceptions: [Errno 111] Connect call failed ('10.1.2.3', 6379)")
    assert "10.1.2.3" not in f"{connect_error(error)} {connect_error(error).detail}"


def test_a_lost_conversation_is_a_reset_unless_it_was_late() -> None:
    assert lost(ConnectionResetError()).reason == "reset"
    assert lost(OSError(errno.EBADF, "bad file descriptor")).reason == "reset"
    assert lost(TimeoutError()).reason == "timeout"


def test_a_reply_is_returned_and_an_error_raised() -> None:
    assert raised(b"x") == b"x"
    with pytest.raises(RedisReplyError):
        raised(RedisReplyError("ERR", "ERR no"))
