"""What a recording needs while it goes on: its register kept, and an end where nobody reads it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.streams.capture.recording import Recording
    from holdfast.streams.capture.register import Register
    from holdfast.streams.fanout.hub import Hub

# A clock that is looked at more often than this tells nobody anything.
_SHORTEST = 0.05
_LONGEST = 3600.0


async def look_after(
    recording: Recording,
    hub: Hub,
    register: Register | None,
    *,
    abandon: float,
    retention: float,
) -> None:
    """Keep the register, and abandon the recording when it has had no reader for so long.

    Args:
        abandon: seconds, 0 for never.
        retention: seconds that what is not written to is kept.
    """
    interval = min(abandon / 4 or _LONGEST, retention / 3 or _LONGEST, _LONGEST)
    read_at = time.monotonic()
    while True:
        await asyncio.sleep(max(interval, _SHORTEST))
        try:
            if register is not None and retention:
                await register.keep(retention)
            is_read = hub.watches(recording.run_id) or await _is_read(register, recording.run_id)
        except HoldfastError:
            # Nobody can say now, and a reader may be at another process.
            is_read = True
        if is_read:
            read_at = time.monotonic()
        elif abandon and time.monotonic() - read_at >= abandon:
            recording.abandon()
            return


async def _is_read(register: Register | None, run_id: str) -> bool:
    if register is None:
        return False
    found = (await register.look()).get(run_id)
    return found is not None and bool(await register.readers(found))
