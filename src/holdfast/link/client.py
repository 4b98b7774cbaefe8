"""How a connection to Redis is made: the one place with the driver's options and private names.

redis-py resolves, connects, negotiates TLS, authenticates, selects the database.
Then the conversation is ours (`lane`, `sync`, `pubsub`): nothing here sends a command of its own.
"""

from __future__ import annotations

import logging
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from redis import asyncio as aioredis
from redis import connection as sync_driver
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from holdfast.errors import ConfigurationError, RedisUnavailable
from holdfast.link.translate import connect_error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from holdfast.link.slots import Address
    from holdfast.settings import RedisTarget, Settings

log = logging.getLogger("holdfast.link")

_ASYNC = {
    "redis": aioredis.Connection,
    "rediss": aioredis.SSLConnection,
    "unix": aioredis.UnixDomainSocketConnection,
}
_SYNC = {
    "redis": sync_driver.Connection,
    "rediss": sync_driver.SSLConnection,
    "unix": sync_driver.UnixDomainSocketConnection,
}

_QUIET = MappingProxyType(
    {
        # RESP2: a server without HELLO (Redis 5, some proxies) answers RESP3's with an error.
        "protocol": 2,
        # Neither CLIENT SETINFO nor maintenance notifications: two round trips less.
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        # What may have been done already must not be done twice. Retrying is decided per command.
        "retry": Retry(NoBackoff(), 0),
    }
)


# On, and no second of patience (Linux: tcp(7), socket(7)).
_NOT_LINGERING = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Target:
    """Where Redis is and how to get in. Its ``repr`` shows neither host nor user nor password.

    Attributes:
        scheme: ``redis``, ``rediss`` or ``unix``: how one connection is made.
        options: the driver's arguments for one connection. Where the address is to be asked for,
            without it: see `at`.
        hosts: addresses to ask: sentinels, or nodes of a Cluster; empty where there is one server.
        service: the name the sentinels know the master by; empty without Sentinel.
        sentinel_options: the driver's arguments for a connection to a sentinel.
    """

    scheme: str
    options: Mapping[str, Any] = field(repr=False)
    hosts: tuple[Address, ...] = field(default=(), repr=False)
    service: str = field(default="", repr=False)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def clustered(self) -> bool:
        """Whether it is a Cluster."""
        return bool(self.hosts) and not self.service

    def at(self, address: Address) -> Target:
        """The same way in, to the server at *address*."""
        host, port = address
        return replace(self, options={**self.options, "host": host, "port": port})

    def sentinel(self, address: Address) -> Target:
        """The way in to the sentinel at *address*."""
        return Target(self.scheme, self.sentinel_options).at(address)

    def checked(self) -> Mapping[str, Any]:
        """The options, once it is known where to connect.

        Raises:
            RedisUnavailable: ``failover``, the address has not been found yet.
        """
        if self.hosts and "host" not in self.options:
            raise RedisUnavailable("failover", "its master is not known yet")
        return self.options


def target(settings: Settings) -> Target:
    """Turn the URL of *settings* into arguments of the driver.

    Raises:
        ConfigurationError: there is no URL.
    """
    place = settings.redis_target
    if place is None:
        raise ConfigurationError("HOLDFAST_REDIS_URL is not set: there is no Redis to link to")
    options = _options(place)
    if settings.redis_url_in_file and place.password:
        options["credential_provider"] = _Renewed(
            settings, options.pop("username"), options.pop("password")
        )
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in options
    }
    scheme, _, kind = place.scheme.partition("+")
    if scheme == "unix":
        return Target(scheme, {"path": place.socket, **options})
    if kind:
        sentinel_options |= {k: v for k, v in options.items() if k.startswith("ssl_")}
        return Target(scheme, options, place.hosts, place.service or "", sentinel_options)
    return Target(scheme, options).at(place.hosts[0])


class _Renewed(CredentialProvider):
    """Asked by the driver at each connect: a password in a file may have been changed."""

    def __init__(self, settings: Settings, user: str | None, password: str | None) -> None:
        self._settings = settings
        self._last = user, password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            self._last = self._settings.redis_credentials()
        except ValueError as error:
            log.warning("%s; the password that was read last is tried", error)
        user, password = self._last
        return (user, password or "") if user else (password or "",)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        # The driver's own does the same, and warns at each connect that it does.
        return self.get_credentials()


def _options(place: RedisTarget) -> dict[str, Any]:
    options: dict[str, Any] = {
        **place.options,
        "db": place.db,
        "username": place.username,
        "password": place.password,
    }
    if "ssl_check_hostname" in options:
        text = str(options["ssl_check_hostname"]).lower()
        options["ssl_check_hostname"] = text not in ("0", "f", "false", "n", "no")
    if not place.scheme.startswith("rediss"):
        options = {name: value for name, value in options.items() if not name.startswith("ssl_")}
    return options


def take_back_unsent(connection: Any) -> None:
    """Have the kernel drop, at the close of *connection*, what the other side has not got yet.

    Else it goes on sending it: a command that was given up in a network failure would be carried
    out minutes later, over what has been written since.

    Args:
        connection: a socket, or what a transport has in its place; ``None`` once it is closed.
    """
    if connection is None:
        return
    with suppress(OSError):  # it is closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOT_LINGERING)


class Stream:
    """An established asyncio connection, handed over by the driver.

    The writer is kept: it closes its transport when it is collected (CPython 3.11.5 and later).

    Attributes:
        transport: the transport, ready for ``set_protocol``.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.transport = writer.transport

    async def hand_over(self, protocol: asyncio.Protocol) -> bytes:
        """Give the transport to *protocol*; return what the server said before it was asked."""
        ended = self._reader.at_eof()
        self.transport.set_protocol(protocol)
        # Nothing feeds the old reader any more: marking its end lets us empty it without waiting.
        self._reader.feed_eof()
        early = await self._reader.read()
        if ended or self.transport.is_closing():
            raise ConnectionResetError
        protocol.connection_made(self.transport)
        return early


async def connect(target: Target) -> Stream:
    """Open one asyncio connection on the running loop, ready for commands.

    The caller sets the deadline.

    Raises:
        RedisUnavailable: it could not be opened.
    """
    connection = None
    try:
        connection = _ASYNC[target.scheme](
            socket_timeout=None, socket_connect_timeout=None, **target.checked(), **_QUIET
        )
        await connection.connect()
    except Exception as error:  # noqa: BLE001
        raise connect_error(error) from None
    # redis-py offers no public way to the transport of a connection it has opened. The pair is
    # taken from it here, and only here, so that it neither reads nor closes what it no longer owns.
    reader, writer = connection._reader, connection._writer  # noqa: SLF001
    connection._reader = connection._writer = None  # noqa: SLF001
    return Stream(reader, writer)


class SyncStream:
    """An established blocking connection; the driver keeps owning and closing its socket."""

    def __init__(self, connection: sync_driver.Connection) -> None:
        self._connection = connection
        # As in `connect`: no public name leads to the socket.
        self.socket = cast("socket.socket", connection._sock)  # noqa: SLF001

    def close(self) -> None:
        """Close it. In a forked child only the child's copy is closed."""
        self._connection.disconnect()  # type: ignore[no-untyped-call]


def connect_sync(target: Target, timeout: float) -> SyncStream:
    """Open one blocking connection, ready for commands.

    *timeout* (seconds) bounds each step: the connect and each reply of the handshake.

    Raises:
        RedisUnavailable: it could not be opened.
    """
    try:
        connection = _SYNC[target.scheme](
            socket_timeout=timeout, socket_connect_timeout=timeout, **target.checked(), **_QUIET
        )
        connection.connect()
    except Exception as error:  # noqa: BLE001
        raise connect_error(error) from None
    return SyncStream(connection)
