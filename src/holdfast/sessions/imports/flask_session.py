"""Sessions in Redis as Flask-Session writes them: MessagePack or JSON under ``session:<id>``.

MessagePack is read by the package that wrote it, msgspec, which Flask-Session brings with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from itsdangerous import BadSignature, Signer

from holdfast.sessions.imports.foreign import (
    PICKLE,
    Claim,
    Foreign,
    Source,
    fetch,
    is_pickle,
    object_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.link import Link

_ID = re.compile(r"[A-Za-z0-9_-]{16,128}")
_KEY = "session:"
# How MessagePack opens a map: with up to 15 entries, with 16 or 32 bits of them.
_MAPS = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})


class FlaskSessionSource(Source):
    """Reads what Flask-Session keeps in Redis.

    Args:
        link: to the Redis it is in.
        keys: any of which may have signed the id, where it was signed.
    """

    package = "flask-session"

    def __init__(self, link: Link, keys: Sequence[str]) -> None:
        super().__init__()
        self._link = link
        self._signers = [Signer(key, salt="flask-session", key_derivation="hmac") for key in keys]

    def claim(self, value: str) -> Claim | None:
        """See :meth:`Source.claim`."""
        if _ID.fullmatch(value):
            return Claim(self.package, value)
        for signer in self._signers:
            try:
                plain = signer.unsign(value).decode()
            except (BadSignature, UnicodeDecodeError):
                continue
            return Claim(self.package, plain) if _ID.fullmatch(plain) else None
        return None

    async def read(self, claim: Claim) -> Foreign | None:
        """See :meth:`Source.read`."""
        found = await fetch(self._link, _KEY + claim.id)
        if found is None:
            return None
        value, seconds = found
        data = object_of(value)
        if data is None and is_pickle(value):
            self.refuse(PICKLE)
        elif data is None:
            data = self._unpacked(value)
        return None if data is None else Foreign(data, seconds)

    def _unpacked(self, value: bytes) -> dict[str, Any] | None:
        if not value or value[0] not in _MAPS:
            self.refuse("it is neither JSON nor MessagePack")
            return None
        try:
            import msgspec
        except ImportError:
            self.refuse("it is MessagePack, which needs a package to be read: pip install msgspec")
            return None
        try:
            data = msgspec.msgpack.decode(value)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self.refuse("it is neither JSON nor MessagePack")
            return None
        return data if isinstance(data, dict) else None
