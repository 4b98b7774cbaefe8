"""Sessions that are a signed cookie, as Starlette's own middleware makes them.

The key is the app's: ``HOLDFAST_SECRET_KEY`` has to hold what the old middleware was given.
"""

from __future__ import annotations

import base64
import binascii
import time
from typing import TYPE_CHECKING

from itsdangerous import BadSignature, TimestampSigner

from holdfast.sessions.imports.foreign import Claim, Foreign, Source, object_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# Clocks of two machines, the one that signed and ours.
_SKEW_SECONDS = 60


class StarletteSource(Source):
    """Reads Starlette's cookie; there is no store to ask.

    Args:
        keys: any of which may have signed.
        max_age: seconds for which a cookie counts after it was signed.
    """

    package = "starlette"

    def __init__(self, keys: Sequence[str], max_age: float) -> None:
        super().__init__()
        self._signers = [TimestampSigner(key) for key in keys]
        self._max_age = max_age

    def claim(self, value: str) -> Claim | None:
        """See :meth:`Source.claim`."""
        for signer in self._signers:
            try:
                payload, signed_at = signer.unsign(value, return_timestamp=True)
            except BadSignature:
                continue
            left = self._max_age - (time.time() - signed_at.timestamp())
            if not 0 < left <= self._max_age + _SKEW_SECONDS:
                return None
            # Not the raw cookie: a signature has more than one spelling.
            name = f"{payload.decode('latin-1')} {signed_at.timestamp():.0f}"
            foreign = _foreign(payload, left)
            return None if foreign is None else Claim(self.package, name, foreign)
        return None

    async def read(self, claim: Claim) -> Foreign | None:
        """See :meth:`Source.read`."""
        return claim.carried


def _foreign(payload: bytes, left: float) -> Foreign | None:
    try:
        data = object_of(base64.b64decode(payload))
    except binascii.Error:
        return None
    return None if data is None else Foreign(data, left)
