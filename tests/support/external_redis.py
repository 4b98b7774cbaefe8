"""A Redis that somebody else runs, for ``HOLDFAST_TEST_REDIS_URL``: used and never stopped."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from holdfast.testing.redis_process import RedisServer, send_command


class ExternalRedis(RedisServer):
    """The server at *url* (``redis://`` only). A test that would kill or freeze it is skipped."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = url
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or 6379
        self.password = parts.password
        self._user = parts.username or "default"
        self._database = parts.path.strip("/") or "0"

    def __repr__(self) -> str:
        return f"<ExternalRedis {self.host}:{self.port}>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def running(self) -> bool:
        return True

    @property
    def pid(self) -> int:
        return self._not_ours()

    def start(self) -> None:
        self._not_ours()

    def stop(self) -> None:
        self._not_ours()

    def kill(self) -> None:
        self._not_ours()

    def freeze(self) -> None:
        self._not_ours()

    def thaw(self) -> None:
        self._not_ours()

    def close(self) -> None:
        """Leave it as it is."""

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), timeout=5)
        if self.password:
            send_command(connection, "AUTH", self._user, self.password)
        send_command(connection, "SELECT", self._database)
        return connection

    def _not_ours(self) -> int:
        pytest.skip("HOLDFAST_TEST_REDIS_URL names a server that is not ours to stop")
