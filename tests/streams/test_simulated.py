"""Whatever an outage finds on its way: each acknowledged event to every reader, once, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.streams.simulated import Connection, life

from holdfast.streams.fanout import ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing import RedisServer


@pytest.fixture
def connection(fresh_redis: RedisServer) -> Iterator[Connection]:
    connection = Connection(fresh_redis.port)
    yield connection
    connection.close()


async def test_no_reader_of_two_processes_misses_an_event_or_has_it_twice(
    connection: Connection,
) -> None:
    for seed in range(1, 41):
        wrong, log = await life(connection, seed)
        assert not wrong, "\n".join([f"seed {seed}", *wrong, *log])


async def test_what_redis_lost_is_told_to_whoever_saw_it(connection: Connection) -> None:
    for seed in range(1, 41):
        wrong, log = await life(connection, seed, losses=True)
        assert not wrong, "\n".join([f"seed {seed}", *wrong, *log])


async def test_who_has_all_is_shown_what_is_published_here_though_redis_goes_again(
    connection: Connection,
) -> None:
    # In these lives Redis goes while what it has just been given is to be read back.
    for seed in (160, 374, 550):
        wrong, log = await life(connection, seed)
        assert not wrong, "\n".join([f"seed {seed}", *wrong, *log])


async def test_a_run_that_is_read_in_small_pages_is_read_whole(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "FIRST_PAGE", 2)
    monkeypatch.setattr(ring, "MAX_PAGE", 3)
    for seed in (225, 389, *range(1, 11)):
        wrong, log = await life(connection, seed)
        assert not wrong, "\n".join([f"seed {seed}", *wrong, *log])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "steps", "lives"), [(1, 80, 100), (2, 80, 200), (3, 200, 100)]
)
@pytest.mark.parametrize("losses", [False, True], ids=["nothing lost", "data lost"])
async def test_no_reader_misses_an_event_in_many_lives(
    connection: Connection, processes: int, steps: int, lives: int, losses: bool
) -> None:
    for seed in range(1000, 1000 + lives):
        wrong, log = await life(connection, seed, steps=steps, processes=processes, losses=losses)
        assert not wrong, "\n".join([f"seed {seed}", *wrong, *log])
