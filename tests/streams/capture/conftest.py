"""What the tests of capture begin with: an application and its browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.streams.capture.calls import Browser, Feed, captured

if TYPE_CHECKING:
    from holdfast.streams.store import EventStore


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def browser(store: EventStore, feed: Feed) -> Browser:
    return Browser(captured(feed, store))
