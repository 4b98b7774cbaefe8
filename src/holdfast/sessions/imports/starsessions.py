"""Sessions in Redis as starsessions writes them: JSON under ``starsessions.<id>``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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
    from holdfast.link import Link

_ID = re.compile(r"[0-9a-f]{32}")
_KEY = "starsessions."
#: Its bookkeeping: when the session was created, and how long it lives.
_METADATA = "__metadata__"


class StarsessionsSource(Source):
    """Reads what starsessions keeps in Redis.

    Args:
        link: to the Redis it is in.
    """

    package = "starsessions"

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def claim(self, value: str) -> Claim | None:
        """See :meth:`Source.claim`."""
        return Claim(self.package, value) if _ID.fullmatch(value) else None

    async def read(self, claim: Claim) -> Foreign | None:
        """See :meth:`Source.read`."""
        found = await fetch(self._link, _KEY + claim.id)
        if found is None:
            return None
        value, seconds = found
        data = object_of(value)
        if data is None:
            self.refuse(PICKLE if is_pickle(value) else "it is not JSON")
            return None
        data.pop(_METADATA, None)
        return Foreign(data, seconds)
