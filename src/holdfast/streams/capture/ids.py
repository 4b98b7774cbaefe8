"""What a captured answer is bound to, and the ids that say where in it a reader stands.

Pure. An id is signed together with what was asked for and by whom: with another path, another
query or another reader it proves nothing, and nothing of it has to be looked up.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from hmac import HMAC, compare_digest
from typing import TYPE_CHECKING

from itsdangerous import Signer

from holdfast.streams.cursor import Cursor, parse_position
from holdfast.streams.doors.asking import CAPTURED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

#: The session cookie, tokens and OAuth bindings are signed with other salts.
SALT = b"holdfast.capture"
MAX_ID = 4096
MAX_OWN_ID = 1024
_NAME = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_PORT = re.compile(rb":[0-9]*\Z")
_MAC_BYTES = 16
RUN = "capture-"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader stands.

    Attributes:
        run_id: in which run.
        cursor: after which event.
        own: the application's own id of that event, ``""`` for none.
    """

    run_id: str
    cursor: Cursor
    own: str


def new_name() -> str:
    """Return 128 random bits: the name of a captured run, a reader, a browser."""
    return secrets.token_urlsafe(16)


def is_name(text: str) -> bool:
    """Whether *text* has the form of such a name."""
    return _NAME.fullmatch(text) is not None


def capture_key(secret_key: str) -> bytes:
    """Return the key that signs here, made of one of ``HOLDFAST_SECRET_KEY``."""
    signer = Signer(secret_key, salt=SALT, key_derivation="hmac", digest_method=sha256)
    return signer.derive_key()


def asked_for(scope: Scope) -> tuple[bytes, ...]:
    """Return what a request asks for: method, host, path and query, and for which page's origin.

    Pages of two origins get answers with different CORS headers, which no log can know. A port says
    which process was asked, and is none of it: cookies know no port either (RFC 6265 section 8.5),
    and a deployment may change it behind a proxy.
    """
    headers = dict(reversed(scope["headers"]))
    return (
        scope["method"].encode(),
        _PORT.sub(b"", headers.get(b"host", b"")),
        scope.get("raw_path") or scope["path"].encode(),
        scope.get("query_string", b""),
        headers.get(b"origin", b""),
    )


class Seal:
    """Signs and reads the ids of one reader of one address.

    Args:
        key: of :func:`capture_key`.
        asked: of :func:`asked_for`.
        reader: who reads: the name of a session, or of a browser.
        authorization: the request's ``Authorization``; only its keyed hash goes on from here.
    """

    __slots__ = ("_mac", "register")

    def __init__(
        self, key: bytes, asked: Iterable[bytes], reader: str, authorization: bytes
    ) -> None:
        mac = HMAC(key, digestmod=sha256)
        for part in (*asked, reader.encode(), authorization):
            # Lengths, or a letter could move from one part to the next.
            mac.update(len(part).to_bytes(8) + part)
        self._mac = HMAC(key, mac.digest(), digestmod=sha256)
        #: The run that lists what this reader was answered here: see ``register.py``.
        self.register = f"captures-{_encode(self._mac.digest()[:_MAC_BYTES])}"

    def sign(self, run_id: str, cursor: str, own: str) -> str:
        """Return the id of a place."""
        kept = own.encode()
        if len(kept) > MAX_OWN_ID:
            kept = b""
        body = f"{CAPTURED}{run_id.removeprefix(RUN)}/{cursor}/{_encode(kept)}"
        return f"{body}/{self._sign(body)}"

    def open(self, text: str) -> Place | None:
        """Return the place that *text* names, ``None`` unless it was signed for just this."""
        if len(text) > MAX_ID or not text.isascii() or not text.startswith(CAPTURED):
            return None
        body, _, signature = text.rpartition("/")
        if not compare_digest(self._sign(body), signature):
            return None
        # From here on it is our own writing.
        name, cursor, own = body.removeprefix(CAPTURED).split("/")
        position = parse_position(cursor)
        if not isinstance(position, Cursor):
            return None
        return Place(RUN + name, position, urlsafe_b64decode(own + "==").decode())

    def _sign(self, body: str) -> str:
        mac = self._mac.copy()
        mac.update(body.encode())
        return _encode(mac.digest()[:_MAC_BYTES])


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
