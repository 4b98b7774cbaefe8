"""What the sessions of other packages have in common: a claim, its answer, and who finds both.

Read-only: nothing here writes, prolongs or deletes anything of another package's. Data is only ever
parsed as data; a pickle is told and left alone, whoever wrote it (CWE-502).
"""

from __future__ import annotations

import abc
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.errors import RedisUnavailable, SessionUnavailable
from holdfast.sessions.stores.sync import blocking

if TYPE_CHECKING:
    from holdfast.link import Link

logger = logging.getLogger("holdfast.sessions")

#: Longer than any cookie of these packages: nobody has us look into more.
MAX_COOKIE_BYTES = 4096
#: For how long what was imported is remembered where the other package sets no end, in seconds.
NO_END_SECONDS = 10 * 365 * 86400.0


class Foreign(NamedTuple):
    """A session of another package.

    Attributes:
        data: what was in it, without that package's own bookkeeping.
        seconds: for which it would have gone on.
    """

    data: dict[str, Any]
    seconds: float

    def __repr__(self) -> str:
        # Keys alone: values are not for logs and tracebacks (CWE-532).
        return f"<Foreign keys={sorted(self.data)}>"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a browser presented; whether there is such a session is not said.

    Attributes:
        package: whose session it is.
        id: the session's id; for a session in a cookie, what was signed.
        carried: the session, where the cookie is all of it.
    """

    package: str
    # It still opens the other package's session.
    id: str = field(repr=False)
    carried: Foreign | None = field(default=None, compare=False)


class Source(abc.ABC):
    """One other package, as its users have it where they changed nothing.

    Attributes:
        package: its name, as in ``HOLDFAST_SESSION_IMPORT``.
        cookie: the name that it gives its cookie.
    """

    package: str
    cookie: str = "session"

    def __init__(self) -> None:
        self._told = False

    @abc.abstractmethod
    def claim(self, value: str) -> Claim | None:
        """Return what the cookie *value* claims, ``None`` for what the package never made. Pure."""

    @abc.abstractmethod
    async def read(self, claim: Claim) -> Foreign | None:
        """Return the session that is claimed, ``None`` where there is none.

        Raises:
            SessionUnavailable: nobody can say now.
        """

    def refuse(self, reason: str) -> None:
        """Tell why a session that is there cannot be imported: once, for all of its kind."""
        level = logging.DEBUG if self._told else logging.WARNING
        self._told = True
        logger.log(level, "a session of %s is not imported: %s", self.package, reason)


async def fetch(link: Link, key: str) -> tuple[bytes, float] | None:
    """Return the text stored under *key*, and for how many seconds more.

    Raises:
        SessionUnavailable: Redis is away.
    """
    commands = [("GET", key), ("PTTL", key)]
    replies = link.pipeline_sync(commands) if blocking() else await link.pipeline(commands)
    value, left = replies
    for reply in (value, left):
        if isinstance(reply, RedisUnavailable):
            raise SessionUnavailable(str(reply)) from reply
    if not isinstance(value, bytes):
        return None  # nothing, or an error because it is no string: no other package wrote that
    seconds = left / 1000 if isinstance(left, int) and left >= 0 else NO_END_SECONDS
    return value, seconds


def object_of(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object that *data* spells, ``None`` for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_pickle(data: bytes) -> bool:
    """Whether *data* opens as a pickle of protocol 2 or newer does, without looking into it."""
    return len(data) > 2 and data[0] == 0x80 and data[1] in range(2, 6)


PICKLE = "it is a pickle, and a pickle is never loaded, because loading one runs what is in it"
