"""What a Redis URL says, taken apart. Pure: text in, a value or a ValueError out.

No message and no ``repr`` made here holds a password, or a part of a URL that may be one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)

# Who we are and whom we trust. Whatever else redis-py takes from a query (timeouts, retries, pools,
# decoding) is the link's to decide: a query would silently beat it.
OPTIONS = frozenset(
    {
        "client_name",
        "sentinel_password",
        "sentinel_username",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "ssl_password",
    }
)

_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}
_HOST = re.compile(r"[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.%A-Za-z]+\]")
_ENCODE = "(in a password, write / as %2F, ? as %3F, # as %23, @ as %40)"


@dataclass(frozen=True)
class RedisTarget:
    """Where a Redis URL points.

    Attributes:
        scheme: one of :data:`SCHEMES`.
        hosts: (host, port) pairs; one, several for Sentinel and Cluster, none for a Unix socket.
        socket: path of the Unix socket, else ``None``.
        service: the name Sentinel knows the master by, else ``None``.
        db: number of the database. Default 0.
        username, password: decoded, or ``None``.
        options: further connection options of redis-py (:data:`OPTIONS`), as text.
        ignored: names of query options that the link does not take from a URL.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    socket: str | None = None
    service: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    ignored: tuple[str, ...] = ()

    @property
    def masked(self) -> str:
        """The URL for people: ``***`` for a password, no options."""
        user = self.username or ""
        login = f"{user}:***@" if self.password else f"{user}@" if user else ""
        if self.socket is not None:
            return f"unix://{login}{self.socket}" + (f"?db={self.db}" if self.db else "")
        hosts = ",".join(f"{_bracketed(host)}:{port}" for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        db = "" if self.scheme.endswith("+cluster") else f"/{self.db}"
        return f"{self.scheme}://{login}{hosts}{service}{db}"


def parse(url: str) -> RedisTarget:
    """Take *url* apart.

    Raises:
        ValueError: what is wrong with it, without any part that may be secret.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{each}://' for each in SCHEMES)}")
    if "#" in rest or not rest.isprintable() or " " in rest:
        raise ValueError(f"holds a #, a space or a control character {_ENCODE}")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    login, _, places = authority.rpartition("@")
    username, _, password = login.partition(":")
    options = dict(parse_qsl(query, keep_blank_values=True))
    target = _place(scheme, places, slash + unquote(path), options.pop("db", None))
    return RedisTarget(
        **target,
        scheme=scheme,
        username=options.pop("username", "") or unquote(username) or None,
        password=options.pop("password", "") or unquote(password) or None,
        options={name: value for name, value in options.items() if name in OPTIONS},
        ignored=tuple(sorted(options.keys() - OPTIONS)),
    )


class _Place(TypedDict, total=False):
    hosts: tuple[tuple[str, int], ...]
    socket: str
    service: str
    db: int


def _place(scheme: str, places: str, path: str, db: str | None) -> _Place:
    if scheme == "unix":
        if places or path in {"", "/"}:
            raise ValueError("must name the path of a socket, as in unix:///run/redis/redis.sock")
        return {"socket": path, "db": _db(db)}
    kind = scheme.partition("+")[2]
    hosts = tuple(_host(each, _PORTS[kind]) for each in places.split(","))
    parts = path.strip("/").split("/") if path.strip("/") else []
    if kind == "sentinel":
        if not parts:
            raise ValueError("must name Sentinel's service: redis+sentinel://host:26379/service/0")
        service, *parts = parts
        return {"hosts": hosts, "service": service, "db": _only_db(parts, db)}
    if kind == "cluster":
        if _only_db(parts, db) != 0:
            raise ValueError("names a database, but a Redis Cluster has only database 0")
        return {"hosts": hosts}
    if len(hosts) > 1:
        raise ValueError("names several hosts: that needs redis+sentinel:// or redis+cluster://")
    return {"hosts": hosts, "db": _only_db(parts, db)}


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = _HOST.match(text)
    if match is None:
        raise ValueError(f"names no host, or one that cannot be {_ENCODE}")
    # RFC 6874: the % before the zone of a link-local address is itself encoded.
    host, port = unquote(match.group().strip("[]")), text[match.end() :]
    if port == "":
        return host, default_port
    # Not int(): it takes "+6379", "6_379" and digits of other scripts.
    if not re.fullmatch(r":[0-9]{1,5}", port) or not 0 < int(port[1:]) < 65536:
        raise ValueError(f"has a port that is no number from 1 to 65535 {_ENCODE}")
    return host, int(port[1:])


def _only_db(parts: list[str], option: str | None) -> int:
    if len(parts) > 1:
        raise ValueError(f"has more in its path than the number of a database {_ENCODE}")
    return _db(parts[0] if parts else option)


def _db(text: str | None) -> int:
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise ValueError(
            f"names a database that is no number, as 0 in redis://host:6379/0 {_ENCODE}"
        )
    return int(text)


def _bracketed(host: str) -> str:
    return f"[{host.replace('%', '%25')}]" if ":" in host else host
