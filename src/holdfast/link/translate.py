"""What Redis and its driver say, in the words of this package; here and nowhere else.

Values in, values out: nothing here sends, waits or decides. Neither a reason nor a detail names a
host or a user: the texts of replies and of the operating system are read, never passed on.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from redis import exceptions as driver

from holdfast.errors import HoldfastError, RedisReplyError, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Arg: TypeAlias = str | bytes | int | float
"""One word of a command."""

Reply: TypeAlias = bytes | int | list[Any] | None
"""What a command answers. Status lines are bytes, arrays are lists, an error in an array is a
`HoldfastError` in its place."""

OUTAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "READONLY": ("readonly", "it is a read-only replica"),
        "OOM": ("out_of_memory", "it is out of memory and refuses to write"),
        "LOADING": ("loading", "it is loading its data"),
        "NOAUTH": ("auth", "it wants a password"),
        "WRONGPASS": ("auth", "it refused the user or the password"),
        "NOPERM": ("auth", "its user may not do this"),
        "DENIED": ("auth", "its protected mode refuses this host"),
        "CLUSTERDOWN": ("cluster_down", "its cluster is down"),
        "MASTERDOWN": ("master_down", "its link with the master is down"),
        "TRYAGAIN": ("try_again", "it is moving the key"),
        "MISCONF": ("misconf", "it cannot save to disk and refuses to write"),
        "NOREPLICAS": ("no_replicas", "too few replicas are connected"),
        "BUSY": ("busy", "it is busy running a script"),
        # Only a node of a Cluster redirects, and `cluster` follows; to a link with one it is news.
        "MOVED": ("unsupported", "it is a node of a cluster"),
        "ASK": ("unsupported", "it is a node of a cluster"),
    }
)
"""Error replies that mean "I cannot serve", by their first word: reason and detail."""

_REDIRECTS = frozenset({"MOVED", "ASK", "TRYAGAIN"})


class Redirected(RedisUnavailable):
    """A node of a Cluster said that the key is elsewhere; the command has not been done.

    Attributes:
        kind: ``MOVED``, for good; ``ASK``, this once; ``TRYAGAIN``, its keys are on both sides.
        slot: the slot of the key; 0 with ``TRYAGAIN``.
        address: where to go; ``None`` where the node did not say.
    """

    def __init__(self, text: str) -> None:
        self.kind, *where = text.split(" ")
        super().__init__(*OUTAGES[self.kind])
        self.slot = 0
        self.address: tuple[str, int] | None = None
        if self.kind != "TRYAGAIN":
            self.slot = int(where[0])
            host, _, port = where[1].rpartition(":")
            if host not in ("", "?"):
                self.address = host, int(port)


_ERR_TEXTS = (
    ("max number of clients", ("max_clients", "it has too many clients")),
    ("invalid password", ("auth", "it refused the password")),
    ("AUTH <password> called without", ("auth", "it has no password but was given one")),
    ("Client sent AUTH, but no password", ("auth", "it has no password but was given one")),
    # Redis 7 and newer; the error of a script does not begin with NOPERM.
    ("ACL failure in script", OUTAGES["NOPERM"]),
    ("operation not permitted", ("auth", "it wants a password")),
    # What it says, and hangs up, where more than ten words come before a password (Redis 6.2).
    ("Protocol error: unauthenticated", ("auth", "it wants a password")),
    ("DB index is out of range", ("database", "it has no database of that number")),
    ("invalid DB index", ("database", "it has no database of that number")),
)

# Before 7.0 a script wraps its errors: "ERR Error running script (…): @user_script:1: -OOM …".
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -?([A-Z]+) ")


def reply_error(text: str) -> RedisUnavailable | RedisReplyError:
    """Translate one error reply: an outage, or a no to this one command."""
    code = text.split(" ", 1)[0]
    if code in _REDIRECTS:
        return _redirect(text)
    known = OUTAGES.get(code)
    if known is None and code == "ERR":
        known = _outage_behind_err(text)
    if known is not None:
        return RedisUnavailable(*known)
    return RedisReplyError(code, text)


def _redirect(text: str) -> RedisUnavailable:
    try:
        return Redirected(text)
    except (ValueError, IndexError):
        return RedisUnavailable("protocol", "it redirects to nowhere")


def _outage_behind_err(text: str) -> tuple[str, str] | None:
    for start, known in _ERR_TEXTS:
        if text.startswith(start, 4):
            return known
    wrapped = _IN_SCRIPT.search(text)
    return OUTAGES.get(wrapped.group(1)) if wrapped else None


def connect_error(error: BaseException) -> RedisUnavailable:
    """Translate whatever the driver or the operating system raised while connecting."""
    for each in _chain(error):
        found = _network_error(each)
        if found is not None:
            return found
    return RedisUnavailable("unreachable", "it cannot be reached")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: the driver keeps the system's own error only there."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__


def _network_error(error: BaseException) -> RedisUnavailable | None:
    if isinstance(error, RedisUnavailable):
        return error
    if isinstance(error, driver.ResponseError | driver.AuthenticationError):
        return _driver_reply(error)
    if isinstance(error, driver.BusyLoadingError):
        return RedisUnavailable(*OUTAGES["LOADING"])
    for kinds, reason, detail in _NETWORK:
        if isinstance(error, kinds):
            return RedisUnavailable(reason, detail)
    # asyncio joins the errors of several addresses into one text without an errno.
    if isinstance(error, OSError) and f"Errno {errno.ECONNREFUSED}" in str(error):
        return RedisUnavailable("refused", "it refuses connections")
    if "max number of clients" in str(error):
        return RedisUnavailable("max_clients", "it has too many clients")
    return None


def _driver_reply(error: driver.RedisError) -> RedisUnavailable:
    """An error reply to AUTH or SELECT: the driver keeps its first word beside its text."""
    text = f"{error.status_code} {error}" if error.status_code else str(error)
    translated = reply_error(text)
    if isinstance(translated, RedisUnavailable):
        return translated
    if isinstance(error, driver.AuthenticationError):
        return RedisUnavailable(*OUTAGES["WRONGPASS"])
    return RedisUnavailable("refused", "it refused to open a connection")


_NETWORK: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    ((TimeoutError, driver.TimeoutError), "timeout", "it did not answer in time"),
    ((ssl.SSLError, ssl.CertificateError), "tls", "its TLS handshake failed"),
    ((ConnectionRefusedError,), "refused", "it refuses connections"),
    (
        (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, EOFError),
        "reset",
        "it closed the connection",
    ),
    ((socket.gaierror,), "unreachable", "its host name cannot be resolved"),
    ((FileNotFoundError,), "unreachable", "its socket is not there"),
)


def lost(error: OSError) -> RedisUnavailable:
    """Translate what a socket raised while replies were awaited."""
    return _network_error(error) or RedisUnavailable("reset", "it closed the connection")


def raised(reply: Any) -> Reply:
    """Return *reply*, or raise it where it is an error."""
    if isinstance(reply, HoldfastError):
        raise reply
    checked: Reply = reply
    return checked
