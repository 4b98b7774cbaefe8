"""Commands through the link on a well Redis: replies, order, errors in place, cancellation."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.errors import RedisReplyError
from holdfast.link import LinkState, Script

if TYPE_CHECKING:
    from tests.link.conftest import MakeLink

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_replies_of_every_type(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link, key = make_link(redis.url), f"{key_prefix}k"
    assert await link.execute("SET", key, "ü") == b"OK"
    assert await link.execute("GET", key) == "ü".encode()
    assert await link.execute("GET", f"{key}-absent") is None
    assert await link.execute("INCRBY", f"{key}-n", 7) == 7
    assert await link.execute("SET", f"{key}-f", 1.5) == b"OK"
    assert await link.execute("RPUSH", f"{key}-l", b"\x00\xff", 2, "c") == 3
    assert await link.execute("LRANGE", f"{key}-l", 0, -1) == [b"\x00\xff", b"2", b"c"]


async def test_the_first_command_waits_for_the_first_verdict(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(redis.url)
    assert (link.up, link.status.state) == (False, LinkState.STARTING)
    assert await link.execute("PING") == b"PONG"
    assert (link.up, link.status.state) == (True, LinkState.UP)
    assert link.status.reason is None


async def test_a_refused_command_hurts_no_other_and_not_the_link(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link, key = make_link(redis.url), f"{key_prefix}k"
    answers = await link.pipeline(
        [("SET", key, 1), ("LPUSH", key, 1), ("GET", key), ("NONSENSE",), ("EVAL", "return", 0)]
    )
    assert answers[0] == b"OK"
    assert isinstance(answers[1], RedisReplyError)
    assert answers[1].code == "WRONGTYPE"
    assert answers[2] == b"1"
    assert isinstance(answers[3], RedisReplyError)
    assert answers[4] is None
    with pytest.raises(RedisReplyError, match="wrong kind"):
        await link.execute("LPUSH", key, 1)
    assert link.up


async def test_an_error_inside_an_array_stays_in_its_place(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link, key = make_link(redis.url), f"{key_prefix}k"
    answers = await link.pipeline([("MULTI",), ("SET", key, 1), ("LPUSH", key, 1), ("EXEC",)])
    assert isinstance(answers[3], list)
    assert answers[3][0] == b"OK"
    assert isinstance(answers[3][1], RedisReplyError)


async def test_a_wrong_argument_is_told_to_the_caller_alone(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(redis.url)
    await link.ready()
    good = link.send("ECHO", "x")
    with pytest.raises(TypeError):
        link.send("SET", key_prefix, None)  # type: ignore[arg-type]
    assert await good == b"x"
    with pytest.raises(TypeError):
        await link.pipeline([("SET", f"{key_prefix}n", 1), ("SET", None)])  # type: ignore[list-item]
    assert await link.execute("EXISTS", f"{key_prefix}n") == 0


async def test_an_empty_pipeline_is_an_empty_answer(
    redis: RedisServer, make_link: MakeLink
) -> None:
    assert await make_link(redis.url).pipeline([]) == []


async def test_commands_of_one_tick_keep_their_order(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link, key = make_link(redis.url), f"{key_prefix}l"
    await link.ready()
    sizes = [1, 300_000, 1, 5, 200_000, 3] * 5
    futures = [link.send("RPUSH", key, f"{n}:" + "x" * size) for n, size in enumerate(sizes)]
    assert await asyncio.gather(*futures) == list(range(1, len(sizes) + 1))
    stored = await link.execute("LRANGE", key, 0, -1)
    assert isinstance(stored, list)
    assert [int(each.partition(b":")[0]) for each in stored] == list(range(len(sizes)))


async def test_a_command_expected_to_be_alone_leaves_at_once(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link, key = make_link(redis.url), f"{key_prefix}k"
    for _ in range(3):
        await link.execute("PING")
    futures = [link.send("RPUSH", key, number) for number in range(3)]
    # No turn of the loop was given, and yet the first is there; the others wait for the turn.
    deadline = time.monotonic() + 5
    while not redis.execute("EXISTS", key):
        assert time.monotonic() < deadline, "it never left"
    assert redis.execute("LRANGE", key, 0, -1) == [b"0"]
    assert await asyncio.gather(*futures) == [1, 2, 3]


async def test_a_batch_with_a_wrong_argument_sends_nothing_though_it_follows_lone_commands(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link, key = make_link(redis.url), f"{key_prefix}k"
    for _ in range(3):
        await link.execute("PING")
    wrong: Any = object()
    with pytest.raises(TypeError):
        await link.pipeline([("SET", key, 1), ("SET", key, wrong)])
    assert await link.execute("EXISTS", key) == 0


async def test_five_thousand_commands_of_one_tick_are_all_answered(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(redis.url, timeout=10.0)
    await link.ready()
    answers = await asyncio.gather(*[link.send("ECHO", n) for n in range(5000)])
    assert answers == [b"%d" % n for n in range(5000)]


@pytest.mark.parametrize("megabytes", [1, 10])
async def test_large_values_pass_both_ways(
    redis: RedisServer, make_link: MakeLink, key_prefix: str, megabytes: int
) -> None:
    link, key = make_link(redis.url, timeout=10.0), f"{key_prefix}big"
    value = random.Random(megabytes).randbytes(1024) * 1024 * megabytes
    assert await link.execute("SET", key, value, "PX", 60_000) == b"OK"
    big, small = link.send("GET", key), link.send("ECHO", "small")
    assert await big == value
    assert await small == b"small"


async def test_a_large_value_does_not_stop_the_loop(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(redis.url, timeout=15.0)
    await link.ready()
    value = b"x" * 1_000_000

    async def longest_stop() -> float:
        writes = [link.send("SET", f"{key_prefix}{n}", value, "PX", 60_000) for n in range(40)]
        loop, longest, last = asyncio.get_running_loop(), 0.0, asyncio.get_running_loop().time()
        while not all(write.done() for write in writes):
            await asyncio.sleep(0)
            longest, last = max(longest, loop.time() - last), loop.time()
        assert {write.result() for write in writes} == {b"OK"}
        return longest

    # A busy machine stops it now and then, the value would each time.
    for _ in range(10):
        if await longest_stop() < 0.1:
            return
    pytest.fail("the loop stands still while a large value is sent")


async def test_a_cancelled_caller_takes_nobody_elses_reply(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link, rng = make_link(redis.url, timeout=10.0), random.Random(300)
    await link.ready()

    async def ask(n: int) -> None:
        assert await link.execute("ECHO", n) == b"%d" % n

    for first in range(0, 3000, 30):
        tasks = [asyncio.create_task(ask(first + n)) for n in range(30)]
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        victims = rng.sample(tasks, 3)
        for victim in victims:
            victim.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
    assert await link.execute("ECHO", "last") == b"last"
    assert link.up


async def test_a_command_cancelled_before_it_left_is_not_sent(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(redis.url)
    await link.ready()
    link.send("SET", f"{key_prefix}never", 1).cancel()
    assert await link.execute("EXISTS", f"{key_prefix}never") == 0


async def test_a_cancelled_pipeline_leaves_no_unread_error_behind(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(redis.url)
    await link.ready()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    task = asyncio.create_task(link.pipeline([("NONSENSE",)] * 10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await link.execute("PING") == b"PONG"
    assert not complaints


async def test_a_script_runs_by_its_digest_and_again_after_a_flush(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(redis.url)
    script = Script("count", "return {redis.call('INCR', KEYS[1]), ARGV[1]}")
    assert await link.run(script, [f"{key_prefix}n"], ["a"]) == [1, b"a"]
    assert await link.run(script, [f"{key_prefix}n"], ["b"]) == [2, b"b"]
    redis.execute("SCRIPT", "FLUSH")
    assert await link.run(script, [f"{key_prefix}n"], ["c"]) == [3, b"c"]


async def test_a_script_that_raises_is_not_run_again(
    redis: RedisServer, make_link: MakeLink, key_prefix: str
) -> None:
    link = make_link(redis.url)
    script = Script("raise", "redis.call('INCR', KEYS[1]) return redis.error_reply('ENDED it is')")
    with pytest.raises(RedisReplyError) as raised:
        await link.run(script, [f"{key_prefix}n"])
    assert raised.value.code == "ENDED"
    assert await link.execute("GET", f"{key_prefix}n") == b"1"


def test_a_script_of_the_package_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError):
        Script.load("no-such-script")


async def test_a_server_that_closes_idle_connections_is_no_outage(
    fresh_redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(fresh_redis.url)
    for _ in range(5):
        assert await link.execute("PING") == b"PONG"
        assert await asyncio.to_thread(link.execute_sync, "PING") == b"PONG"
        fresh_redis.execute("CLIENT", "KILL", "TYPE", "normal")
        # A turn of the loop, so that it sees the end of a connection that nobody was using.
        await asyncio.sleep(0.02)
        assert link.up
    assert link.status.state is LinkState.UP
