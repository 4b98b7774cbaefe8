"""Whatever an outage finds on its way: nobody is logged out, or back, and no write is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.sessions.simulated import Connection, life

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.testing import RedisServer


@pytest.fixture
def connection(fresh_redis: RedisServer) -> Iterator[Connection]:
    connection = Connection(fresh_redis.port)
    yield connection
    connection.close()


async def lives(
    connection: Connection,
    seeds: range,
    *,
    steps: int = 150,
    processes: int = 1,
    losses: bool = False,
) -> None:
    for seed in seeds:
        how = {"steps": steps, "processes": processes}
        wrong, log = await life(connection, seed, losses=losses, **how)
        assert not wrong, "\n".join([f"seed {seed}", *wrong, *log])


async def test_nobody_is_logged_out_or_back_and_no_acknowledged_write_is_missing(
    connection: Connection,
) -> None:
    await lives(connection, range(15, 60))


async def test_visitors_of_two_processes_lose_nothing(connection: Connection) -> None:
    await lives(connection, range(1, 16), processes=2)


async def test_what_redis_lost_brings_nobody_back_from_a_logout(connection: Connection) -> None:
    await lives(connection, range(1, 21), losses=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "steps", "count"), [(1, 150, 300), (2, 150, 150), (3, 300, 50)]
)
@pytest.mark.parametrize("losses", [False, True], ids=["nothing lost", "data lost"])
async def test_many_lives(
    connection: Connection, processes: int, steps: int, count: int, losses: bool
) -> None:
    seeds = range(1000, 1000 + count)
    await lives(connection, seeds, steps=steps, processes=processes, losses=losses)
