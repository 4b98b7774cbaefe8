"""The session cookie: what is in it, which of several to believe, and the header that sets it.

Pure: bytes in, values out. Nothing here reads a store, a clock or the configuration, and no byte a
client sent goes back out: what leaves was made by :func:`new_credential` and the key list.
"""

from __future__ import annotations

import binascii
import enum
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from itsdangerous import Signer

from holdfast.sessions.store import SessionKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Tokens, capture ids and OAuth bindings are signed with other salts: none passes for another.
SALT = b"holdfast.session.cookie"

# 144 and 192 random bits; both lengths fill base64url exactly, so that each has one spelling.
_LOCATOR_BYTES, _SECRET_BYTES = 18, 24
_PAYLOAD = re.compile(rb"[A-Za-z0-9_-]{24}\.[A-Za-z0-9_-]{32}\.")
_SHA256_BASE64_LENGTH = 43
_PAYLOAD_LENGTH = 24 + 1 + 32
_COOKIE_LENGTH = _PAYLOAD_LENGTH + 1 + _SHA256_BASE64_LENGTH
_URLSAFE = bytes.maketrans(b"+/", b"-_")

# How many cookies a signer knows again: a page is several requests, and a visit several pages.
_MOST_KNOWN = 1024

_EPOCH = "Thu, 01 Jan 1970 00:00:00 GMT"  # RFC 6265, section 3.1: a date in the past removes

SameSite = Literal["lax", "strict", "none"]


@dataclass(frozen=True, slots=True)
class Credential:
    """What a browser holds: where its session is, and the proof that it may have it.

    Attributes:
        locator: names the session for its whole life; its SHA-256 is the id in the store.
        secret: replaced by every rotation; the store keeps its SHA-256 alone.
    """

    locator: str
    secret: str
    #: The two hashes, which is all that a store ever sees.
    key: SessionKey = field(init=False, compare=False)

    def __post_init__(self) -> None:
        key = SessionKey(_sha256(self.locator), _sha256(self.secret))
        object.__setattr__(self, "key", key)

    def __repr__(self) -> str:
        return "Credential(***)"

    def rotated(self) -> Credential:
        """The same session with a new secret."""
        return Credential(self.locator, secrets.token_urlsafe(_SECRET_BYTES))


def new_credential() -> Credential:
    """Return the credential of a session that does not exist yet."""
    return Credential(secrets.token_urlsafe(_LOCATOR_BYTES), secrets.token_urlsafe(_SECRET_BYTES))


_SHA256 = hashlib.sha256()


def _sha256(text: str) -> str:
    # A copy spares OpenSSL the search for the algorithm.
    digest = _SHA256.copy()
    digest.update(text.encode())
    return digest.hexdigest()


class NoCredential(enum.Enum):
    """Why a request names no session."""

    NO_COOKIE = "no cookie of our name"
    INVALID = "none that we signed"
    AMBIGUOUS = "several that we signed"


class Presented(NamedTuple):
    """A credential that we signed.

    Attributes:
        credential: what the browser holds.
        old_key: an older key signed it, so that it is to be signed anew.
    """

    credential: Credential
    old_key: bool


CookieAnswer = Presented | NoCredential


class CookieSigner:
    """Signs and verifies the value of the session cookie.

    Args:
        keys: newest first. The first signs, all verify.
        anew: whether what an older key signed is to be signed anew.
    """

    def __init__(self, keys: Sequence[str], *, anew: bool = True) -> None:
        if not keys or not all(keys):
            raise ValueError("a signer needs at least one key, and none may be empty")
        self._signer = _signer(keys[0])
        self._anew = anew
        # One a key, because which key it was decides on signing anew.
        self._hashes = [_hash_of(key) for key in keys]
        self._known: dict[bytes, Presented] = {}

    def sign(self, credential: Credential) -> str:
        """Return the cookie's value."""
        return self._signer.sign(f"{credential.locator}.{credential.secret}").decode()

    def verify(self, value: bytes) -> Presented | None:
        """Return what *value* says, ``None`` unless one of our keys signed it."""
        # The length goes first: nobody has us hash ten kilobytes.
        if len(value) != _COOKIE_LENGTH:
            return None
        presented = self._known.get(value)
        if presented is None:
            presented = self._proved(value)
            if presented is not None:
                # All at once: which to let go is not worth a lock, which to keep not a list.
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[value] = presented
        return presented

    def _proved(self, value: bytes) -> Presented | None:
        if not _PAYLOAD.match(value):
            return None
        # As the signer would, in a third of the time, which every request with a cookie takes.
        payload, signature = value[:_PAYLOAD_LENGTH], value[_PAYLOAD_LENGTH + 1 :]
        for age, keyed in enumerate(self._hashes):
            mac = keyed.copy()
            mac.update(payload)
            if hmac.compare_digest(_base64(mac.digest()), signature):
                locator, _, secret = payload.decode().partition(".")
                return Presented(Credential(locator, secret), old_key=self._anew and age > 0)
        return None

    def choose(self, values: Iterable[bytes]) -> CookieAnswer:
        """Return the one credential among the cookies of our name.

        A sibling subdomain can toss a second cookie at ours, and which of two a browser sends first
        is the attacker's choice: every candidate is verified, and of two different valid ones
        none is believed.
        """
        found: Presented | None = None
        seen = False
        for value in values:
            seen = True
            presented = self.verify(value)
            if presented is None:
                continue
            if found is not None and found.credential != presented.credential:
                return NoCredential.AMBIGUOUS
            # The same credential under two keys is settled by the newer.
            if found is None or found.old_key:
                found = presented
        if found is not None:
            return found
        return NoCredential.INVALID if seen else NoCredential.NO_COOKIE


def _derived(key: str) -> bytes:
    return Signer(key, salt=SALT, key_derivation="hmac", digest_method=hashlib.sha256).derive_key()


def _signer(key: str) -> Signer:
    # Derived once, not for every cookie.
    return Signer(_derived(key), key_derivation="none", digest_method=hashlib.sha256)


def _hash_of(key: str) -> hmac.HMAC:
    return hmac.new(_derived(key), digestmod=hashlib.sha256)


def _base64(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_URLSAFE, b"=")


def candidates(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of every cookie called *name*, in the order sent.

    HTTP/2 may split ``Cookie`` into several header lines (RFC 9113, section 8.2.3).
    """
    values = []
    for header, line in headers:
        if header == b"cookie" and name in line:
            for pair in line.split(b";"):
                key, _, value = pair.partition(b"=")
                if key.strip() == name:
                    values.append(value.strip())
    return values


@dataclass(frozen=True, slots=True)
class CookieAttributes:
    """What is said about the cookie beside its value. Checked by the settings that it is made of.

    Attributes:
        name: its name.
        max_age: its ``Max-Age`` in seconds, ``None`` for a cookie that ends with the browser.
        path, domain, same_site, https_only, partitioned: as the settings of these names.
    """

    name: str = "session"
    max_age: int | None = 1209600
    path: str = "/"
    domain: str | None = None
    same_site: SameSite = "lax"
    https_only: bool = False
    partitioned: bool = False

    def set_header(self, value: str, max_age: int | None) -> bytes:
        """Return the ``Set-Cookie`` value that gives the browser *value* for *max_age* seconds."""
        lifetime = "" if max_age is None else f"Max-Age={max_age}; "
        return self._header(value, lifetime)

    def remove_header(self) -> bytes:
        """Return the ``Set-Cookie`` value that makes the browser forget the cookie.

        It repeats Path, Domain, Secure and Partitioned: a browser looks the cookie up by them, and
        refuses a ``__Host-`` cookie without Secure even where it removes one.
        """
        return self._header("null", f"expires={_EPOCH}; ")

    def _header(self, value: str, lifetime: str) -> bytes:
        flags = f"httponly; samesite={self.same_site}"
        if self.https_only:
            flags += "; secure"
        if self.domain is not None:
            flags += f"; domain={self.domain}"
        if self.partitioned:
            flags += "; partitioned"
        return f"{self.name}={value}; path={self.path}; {lifetime}{flags}".encode("latin-1")
