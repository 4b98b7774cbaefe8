"""What tests of several pages of sessions start from."""

from __future__ import annotations

import pytest

from holdfast.link import supervisor


@pytest.fixture
def quick_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the pauses of the link short: what they bound is tested in tests/link."""
    for name in ("HOLD_DOWN", "PROBE_INTERVAL", "BEAT_INTERVAL"):
        monkeypatch.setattr(supervisor, name, 0.1)
