"""Which browser began a login: a signed cookie with a random id, under one of several names.

Pure: header lines in, header lines out. The state alone proves nothing, because an attacker can
begin a login and have a victim's browser end it (login CSRF: RFC 6749, section 10.12).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from itsdangerous import BadSignature, Signer

from holdfast.oauth.record import MAX_TTL
from holdfast.sessions.cookie import CookieAttributes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.settings import Settings

#: Session cookies, tokens and capture ids are signed with other salts: none passes for another.
SALT = b"holdfast.oauth.browser"

_ID_BYTES = 24
_ID = re.compile(rb"[A-Za-z0-9_-]{32}")
_VALUE_LENGTH = 32 + 1 + 43  # the id, a dot, SHA-256 in base64url

# Tabs that a browser opens at once, all without a cookie yet, are each given one: under one name
# the last answer would undo the others. Few enough names that all of them fit in a header.
_SLOTS = string.ascii_letters + string.digits
_MOST_COOKIES = 8


@dataclass(slots=True)
class Bound:
    """The browser of one request.

    Attributes:
        proof: the SHA-256 of its id, which is what a store keeps.
        headers: values of ``Set-Cookie`` that are still to be sent.
    """

    proof: str
    headers: list[str] = field(default_factory=list)


class Binding:
    """Reads and makes the cookie that binds logins to a browser.

    Its attributes are those of the session cookie, except ``SameSite``: ``Lax``, so that it comes
    with the provider's redirect; with *form_post* ``None`` and ``Secure``, so that it comes with
    the provider's POST as well. Where it can be, it is a ``__Host-`` cookie, which no other host
    can set.

    Args:
        settings: for the keys and the session cookie's attributes.
        form_post: whether providers answer by ``response_mode=form_post``.
    """

    def __init__(self, settings: Settings, *, form_post: bool = False) -> None:
        secure = form_post or settings.session_https_only
        host_only = settings.session_path == "/" and settings.session_domain is None
        name = "holdfast_oauth_post" if form_post else "holdfast_oauth"
        self._stem = f"__Host-{name}-" if secure and host_only else f"{name}-"
        self._domain, self._path = settings.session_domain, settings.session_path
        self._partitioned = settings.session_partitioned
        self._secure, self._form_post = secure, form_post
        # Its last key signs, ours are newest first.
        keys = [key.encode() for key in reversed(settings.signing_keys())]
        self._signer = Signer(keys, salt=SALT, key_derivation="hmac", digest_method=hashlib.sha256)

    def proofs(self, lines: Iterable[str]) -> list[str]:
        """Return the proofs that the ``Cookie`` header *lines* hold; forged ones are none."""
        return [proof_of(browser) for browser in self._presented(lines).values()]

    def bind(self, lines: Iterable[str]) -> Bound:
        """Return the browser that sent *lines*, and the cookie that keeps it recognisable."""
        known = self._presented(lines)
        if not known:
            name = self._stem + secrets.choice(_SLOTS)
            browser = secrets.token_urlsafe(_ID_BYTES)
            return Bound(proof_of(browser), [self._set(name, browser)])
        name, browser = next(iter(known.items()))
        surplus = list(known)[_MOST_COOKIES:]
        removed = [self._attributes(each).remove_header().decode() for each in surplus]
        return Bound(proof_of(browser), [self._set(name, browser), *removed])

    def _presented(self, lines: Iterable[str]) -> dict[str, str]:
        """The browser ids in *lines* by cookie name; browsers send the oldest first."""
        found: dict[str, str] = {}
        for line in lines:
            for pair in line.split(";"):
                name, _, value = pair.strip().partition("=")
                if name[:-1] == self._stem and name[-1] in _SLOTS:
                    browser = self._verified(value)
                    if browser is not None:
                        found.setdefault(name, browser)
        return found

    def _verified(self, value: str) -> str | None:
        # The length goes first: nobody has us hash ten kilobytes.
        if len(value) != _VALUE_LENGTH or not value.isascii():
            return None
        try:
            browser = self._signer.unsign(value)
        except BadSignature:
            return None
        return browser.decode() if _ID.fullmatch(browser) else None

    def _set(self, name: str, browser: str) -> str:
        value = self._signer.sign(browser).decode()
        return self._attributes(name).set_header(value, MAX_TTL).decode()

    def _attributes(self, name: str) -> CookieAttributes:
        return CookieAttributes(
            name=name,
            path=self._path,
            domain=self._domain,
            same_site="none" if self._form_post else "lax",
            https_only=self._secure,
            partitioned=self._partitioned,
        )


def proof_of(browser: str) -> str:
    """Return what a store keeps of a browser's id: a dump of it is good for no cookie."""
    return hashlib.sha256(browser.encode()).hexdigest()


def new_proof() -> str:
    """Return the proof of a browser that is known by its session alone."""
    return proof_of(secrets.token_urlsafe(_ID_BYTES))
