"""The short form of the soak; ``python -m tests.sessions.soak`` is the long one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.sessions.soak import soak

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
async def test_nobody_is_logged_out_or_back_from_a_logout_and_nothing_acknowledged_is_missing(
    tmp_path: Path,
) -> None:
    outcome = await soak(sessions=500, seconds=3.0, folder=tmp_path)
    assert not outcome.wrong
    assert outcome.logouts >= 10
    assert outcome.born >= 1
    assert outcome.statuses[200] > 100
