"""What the tests of the doors begin with: a store that does as it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.streams.patchy import PatchyStore

from holdfast.streams.select import close_hubs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def patchy() -> AsyncIterator[PatchyStore]:
    store = PatchyStore()
    yield store
    await close_hubs(store)
