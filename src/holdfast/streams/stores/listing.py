"""Which runs there are, read off the names of their keys: for people who look, never for a request.

Nobody keeps a list of runs, so this reads the name of every key that Redis has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from holdfast.errors import InvalidEvent
from holdfast.link.scan import literal, scan
from holdfast.streams.event import check_run_id
from holdfast.streams.stores.replies import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.link import Link
    from holdfast.settings import Settings

# What was answered to one reader of a captured address is noted in a run, which is nobody's to see.
_REGISTER = re.compile(r"captures-[A-Za-z0-9_-]{22}", re.ASCII)


def run_ids(link: Link, settings: Settings) -> Iterator[str]:
    """Yield the id of each run that Redis knows, expired ones too, once each and in no order.

    It blocks. A run that comes or goes meanwhile may be missed.

    Args:
        link: it has to be up.
        settings: ``KEY_PREFIX`` and ``STREAM_KEY``, by which runs are named.

    Raises:
        RedisUnavailable: a master of Redis does not answer, or its user lacks ``+scan``.
    """
    before, after = settings.stream_key.split("{run_id}")
    before = settings.key_prefix + before
    seen: set[str] = set()
    # The key of a stream has a key beside it, which is there longer, or the other way round where
    # another program writes the stream: one pattern finds both.
    for key in scan(link, f"*{literal(before)}*{literal(after)}*"):
        run_id = _run_id(key, before, after)
        if run_id is not None and run_id not in seen and not _REGISTER.fullmatch(run_id):
            seen.add(run_id)
            yield run_id


def _run_id(key: bytes, before: str, after: str) -> str | None:
    """Return whose stream or meta key it is; None where it is something else."""
    try:
        name = key.decode()
        stream = name.removeprefix("{").removesuffix("}:meta")
        run_id = check_run_id(stream[len(before) : len(stream) - len(after)])
    except (UnicodeDecodeError, InvalidEvent):
        return None
    keys = Keys.of(before, "{run_id}" + after, run_id)
    return run_id if name in {keys.stream, keys.meta} else None
