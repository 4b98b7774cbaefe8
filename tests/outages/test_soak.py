"""The short form of the soak; ``python -m tests.outages.soak`` is the long one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.outages.soak import READERS, soak

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
async def test_every_reader_has_every_event_once_and_in_order_whatever_fails(
    tmp_path: Path,
) -> None:
    outcome = await soak(events=500, rate=90, folder=tmp_path)
    assert not outcome.wrong
    assert outcome.deliveries == READERS * 3 * 500
    assert outcome.faults.lost_replies >= 3
    assert outcome.faults.cuts >= 10
    assert outcome.connections > 3 * READERS
