"""Who reads: a session of holdfast's, or else a browser that carries our cookie.

It only finds out. What that opens is in the ids, which are signed for one reader and one address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from holdfast.streams.access import owner_names
from holdfast.streams.capture.ids import Seal, asked_for, is_name, new_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.types import Scope

    from holdfast.settings import Settings
    from holdfast.streams.capture.register import Headers

COOKIE = "holdfast_capture"
NAMED = "holdfast.capture.session"
"""Where the scope has a function of the scope and an answer's headers, by which the session is
known that is kept inside of what is captured: its ``id_hash``, or ``None``."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a new answer is bound to.

    Attributes:
        seal: signs its ids.
        owner: whose its run is, ``None`` for nobody's.
        cookie: to be given to the browser, ``None`` where it has what it takes.
    """

    seal: Seal
    owner: str | None
    cookie: str | None


def seals_of(scope: Scope, keys: Sequence[bytes]) -> list[Seal]:
    """Return the seals of a request, the one that a new answer gets first; none: nobody is known.

    An answer that was bound to the cookie is still this browser's when its user has logged in.

    Raises:
        RedisUnavailable: the session cannot be seen now.
    """
    connection = HTTPConnection(scope)
    return list(_seals(scope, keys, _readers(connection, _names(connection, []))))


def bind(scope: Scope, keys: Sequence[bytes], answered: Headers) -> Bound:
    """Return what the answer to a request is bound to, now that its handler has been called.

    Args:
        answered: the headers of the answer, which may begin or end a session.

    Raises:
        RedisUnavailable: the session cannot be seen now.
    """
    connection = HTTPConnection(scope)
    names = _names(connection, answered)
    readers = _readers(connection, names)
    cookie = None if readers else new_name()
    seal = next(_seals(scope, keys, readers or [f"cookie:{cookie}"]))
    return Bound(seal, names[0] if names else None, cookie)


def set_cookie(value: str, settings: Settings) -> bytes:
    """Return the ``Set-Cookie`` that gives a browser its name."""
    made = f"{COOKIE}={value}; path=/; httponly; samesite={settings.session_same_site}"
    if settings.session_https_only:
        made += "; secure"
    if settings.session_partitioned:
        made += "; partitioned"
    return made.encode("latin-1")


def _names(connection: HTTPConnection, answered: Headers) -> Sequence[str]:
    names = owner_names(connection)
    if names or NAMED not in connection.scope:
        return names
    # The session is inside, and its user with it: the cookie alone says which one it is.
    id_hash = connection.scope[NAMED](connection.scope, answered)
    return () if id_hash is None else (f"session:{id_hash}",)


def _readers(connection: HTTPConnection, names: Sequence[str]) -> list[str]:
    # A session has the name ``session:<id_hash>``, stable over its rotations, and may have a user.
    # Another user in the same session is another reader; what it had before a login is still its.
    readers = list(dict.fromkeys([" ".join(dict.fromkeys(names)), *names[-1:]])) if names else []
    cookie = _cookie(connection)
    return [*readers, f"cookie:{cookie}"] if cookie else readers


def _cookie(connection: HTTPConnection) -> str | None:
    value = connection.cookies.get(COOKIE, "")
    return value if is_name(value) else None


def _seals(scope: Scope, keys: Sequence[bytes], readers: Sequence[str]) -> Iterator[Seal]:
    asked = asked_for(scope)
    authorization = dict(reversed(scope["headers"])).get(b"authorization", b"")
    for reader in readers:
        for key in keys:
            yield Seal(key, asked, reader, authorization)
