"""What the tests of the link share: links that are always closed, and ways to wait."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

import pytest

from holdfast.link import Link
from holdfast.settings import Settings
from holdfast.testing import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.testing import RedisServer


class MakeLink(Protocol):
    def __call__(self, url: str, *, timeout: float = 5.0) -> Link: ...


@pytest.fixture
def make_link(key_prefix: str) -> Iterator[MakeLink]:
    """Links with a key prefix of the test's own, closed at its end.

    They are patient: a busy machine is no outage. Only where a deadline is to pass is it shorter.
    """
    links: list[Link] = []

    def make(url: str, *, timeout: float = 5.0) -> Link:
        link = Link(Settings(redis_url=url, redis_timeout=timeout, key_prefix=key_prefix))
        links.append(link)
        return link

    yield make
    for link in links:
        link.close()


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for *condition*, on a loop."""
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "it did not come about in time"
        await asyncio.sleep(0.005)


def until_sync(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for *condition*, in a thread."""
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "it did not come about in time"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def cluster_node() -> Iterator[RedisServer]:
    """A node of a Cluster that has no slots; it knows how keys are laid out."""
    with redis_server("--cluster-enabled", "yes", "--cluster-port", "0") as server:
        yield server
