"""How a connection to Redis is made: the one place with the driver's options and private names.

redis-py resolves, connects, negotiates TLS, authenticates, selects the database and asks sentinels.
Then the conversation is ours (`lane`, `sync`, `pubsub`): nothing here sends a command of its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from redis import asyncio as aioredis
from redis import connection as sync_driver
from redis.asyncio import sentinel as async_sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel

from holdfast.errors import ConfigurationError
from holdfast.link.translate import connect_error

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Mapping

    from holdfast.settings import RedisTarget, Settings

log = logging.getLogger("holdfast.link")

_ASYNC = {
    "redis": aioredis.Connection,
    "redis+sentinel": aioredis.Connection,
    "rediss": aioredis.SSLConnection,
    "unix": aioredis.UnixDomainSocketConnection,
}
_SYNC = {
    "redis": sync_driver.Connection,
    "redis+sentinel": sync_driver.Connection,
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


@dataclass(frozen=True)
class Target:
    """Where Redis is and how to get in. Its ``repr`` shows neither host nor user nor password.

    Attributes:
        scheme: ``redis``, ``rediss``, ``unix`` or ``redis+sentinel``.
        options: the driver's arguments for one connection.
        sentinels: addresses to ask for the master, in this order; empty without Sentinel.
        service: the name the sentinels know the master by.
        sentinel_options: credentials for the sentinels themselves.
    """

    scheme: str
    options: Mapping[str, Any] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    service: str = field(default="", repr=False)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


def target(settings: Settings) -> Target:
    """Turn the URL of *settings* into arguments of the driver.

    Raises:
        ConfigurationError: there is no URL, or it is of a kind that is not yet supported.
    """
    place = settings.redis_target
    if place is None:
        raise ConfigurationError("HOLDFAST_REDIS_URL is not set: there is no Redis to link to")
    if place.scheme not in _ASYNC:
        raise ConfigurationError(
            f"HOLDFAST_REDIS_URL: {place.scheme} is not yet supported in this version"
        )
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
    if place.scheme == "unix":
        return Target(place.scheme, {"path": place.socket, **options})
    if place.scheme == "redis+sentinel":
        service = place.service or ""
        return Target(place.scheme, options, place.hosts, service, sentinel_options)
    host, port = place.hosts[0]
    return Target(place.scheme, {"host": host, "port": port, **options})


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
    if place.scheme != "rediss":
        options = {name: value for name, value in options.items() if not name.startswith("ssl_")}
    return options


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


async def connect(target: Target, timeout: float) -> Stream:
    """Open one asyncio connection on the running loop, ready for commands.

    The caller sets the deadline. *timeout* (seconds) bounds only the question to each sentinel.

    Raises:
        RedisUnavailable: it could not be opened.
    """
    options = dict(target.options)
    connection = None
    try:
        if target.sentinels:
            options["host"], options["port"] = await _master(target, timeout)
        connection = _ASYNC[target.scheme](
            socket_timeout=None, socket_connect_timeout=None, **options, **_QUIET
        )
        await connection.connect()
    except Exception as error:  # noqa: BLE001
        raise connect_error(error) from None
    # redis-py offers no public way to the transport of a connection it has opened. The pair is
    # taken from it here, and only here, so that it neither reads nor closes what it no longer owns.
    reader, writer = connection._reader, connection._writer  # noqa: SLF001
    connection._reader = connection._writer = None  # noqa: SLF001
    return Stream(reader, writer)


async def _master(target: Target, timeout: float) -> tuple[str, int]:
    manager = async_sentinel.Sentinel(  # type: ignore[no-untyped-call]
        target.sentinels,
        sentinel_kwargs=_sentinel_options(target, timeout),
    )
    async with manager:
        host, port = await manager.discover_master(target.service)
    return host, port


def _sentinel_options(target: Target, timeout: float) -> dict[str, Any]:
    """Options for asking a sentinel: a dead one may cost its share of the deadline and no more."""
    share = timeout / len(target.sentinels)
    return {
        "socket_timeout": share,
        "socket_connect_timeout": share,
        **target.sentinel_options,
        **_QUIET,
    }


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
    options = dict(target.options)
    try:
        if target.sentinels:
            sentinel = Sentinel(  # type: ignore[no-untyped-call]
                target.sentinels, sentinel_kwargs=_sentinel_options(target, timeout)
            )
            try:
                options["host"], options["port"] = sentinel.discover_master(  # type: ignore[no-untyped-call]
                    target.service
                )
            finally:
                for each in sentinel.sentinels:
                    each.close()
        connection = _SYNC[target.scheme](
            socket_timeout=timeout, socket_connect_timeout=timeout, **options, **_QUIET
        )
        connection.connect()
    except Exception as error:  # noqa: BLE001
        raise connect_error(error) from None
    return SyncStream(connection)
