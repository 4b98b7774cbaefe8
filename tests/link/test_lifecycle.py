"""Loops, threads, forks and the end of the process: nothing shared wrongly, nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.link.conftest import until
from tests.support.threads import no_threads

from holdfast.link import Link, Listener
from holdfast.link.lane import Lane
from holdfast.settings import Settings

if TYPE_CHECKING:
    from tests.link.conftest import MakeLink

    from holdfast.testing import RedisServer

PREAMBLE = """
import asyncio, os, sys, threading, time
from holdfast.errors import RedisUnavailable
from holdfast.link import Link, Listener
from holdfast.settings import Settings
link = Link(Settings(redis_url=sys.argv[1], redis_timeout=5))
async def echo(text):
    assert await link.execute("ECHO", text) == text.encode()
"""


def run(url: str, code: str, seconds: float = 20.0) -> str:
    """Run *code* in a strict interpreter: any warning or complaint at its end fails the test."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(code), url],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_loops_in_fifty_threads_get_their_own_replies(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link, wrong = make_link(redis.url, timeout=5.0), list[object]()

    async def ask(me: int, n: int) -> None:
        text = f"{me}:{n}".encode()
        if (got := await link.execute("ECHO", text)) != text:
            wrong.append(got)

    async def ask_much(me: int) -> None:
        for first in range(0, 200, 20):
            await asyncio.gather(*[ask(me, first + n) for n in range(20)])

    threads = [threading.Thread(target=lambda n=n: asyncio.run(ask_much(n))) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # Each loop took its lane with it.
    assert not link._lanes


def test_a_loop_that_closes_leaves_no_warning_and_the_next_one_works(redis: RedisServer) -> None:
    run(
        redis.url,
        """
        import gc
        async def much():
            await asyncio.gather(*[echo(str(n)) for n in range(100)])
            assert len(asyncio.all_tasks()) == 1
        for _ in range(5):
            asyncio.run(much())
            gc.collect()
        assert not link._lanes
        """,
    )


def test_a_loop_that_closes_with_commands_and_a_connect_in_flight_leaves_no_warning(
    redis: RedisServer,
) -> None:
    run(
        redis.url,
        """
        import gc
        async def leave_early(turns):
            await link.ready()
            task = asyncio.create_task(echo("never read"))
            for _ in range(turns):
                await asyncio.sleep(0)
        for turns in range(12):
            asyncio.run(leave_early(turns))
            gc.collect()
        asyncio.run(echo("well"))
        """,
    )


def test_a_loop_dropped_without_a_word_hinders_no_other(
    redis: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(redis.url)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(link.execute("ECHO", "a")) == b"a"
    lane = link._lanes[loop]
    loop.close()
    assert asyncio.run(_echo(link, "b")) == b"b"
    assert loop not in link._lanes
    # What a loop closed by hand leaves open is its owner's, here ours.
    assert isinstance(lane, Lane)
    assert lane._current is not None
    assert lane._current._transport is not None
    lane._current._transport._sock.close()  # type: ignore[attr-defined]
    lane._current._transport._sock = None  # type: ignore[attr-defined]
    lane._current._transport._closing = True  # type: ignore[attr-defined]


async def _echo(link: Link, text: str) -> object:
    return await link.execute("ECHO", text)


def test_a_new_loop_per_request_as_test_clients_make_them(redis: RedisServer) -> None:
    run(
        redis.url,
        """
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from starlette.testclient import TestClient
        async def page(request):
            return PlainTextResponse(await link.execute("ECHO", request.query_params["q"]))
        app = Starlette(routes=[Route("/", page)])
        client = TestClient(app)
        for n in range(10):
            assert client.get(f"/?q={n}").text == str(n)
        with client:
            for n in range(10):
                assert client.get(f"/?q={n}").text == str(n)
        """,
    )


def test_who_found_no_thread_to_watch_redis_keeps_nobody_else_from_it(
    make_link: MakeLink, redis: RedisServer
) -> None:
    link = make_link(redis.url)
    with no_threads(), pytest.raises(RuntimeError, match="thread"):
        link.execute_sync("PING")
    assert link.execute_sync("ECHO", "x") == b"x"


def test_after_a_fork_both_sides_work_and_neither_hears_the_other(redis: RedisServer) -> None:
    run(
        redis.url,
        """
        def identity():
            return link.execute_sync("CLIENT", "ID")
        async def both():
            listener = Listener(link, lambda *_: None, lambda: None)
            await listener.add("fork")
            await echo("before")
            mine, threads = await link.execute("CLIENT", "ID"), identity()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    # A thread, because the child is still inside the parent's coroutine.
                    def child():
                        nonlocal status
                        assert not link.up
                        theirs = asyncio.run(link.execute("CLIENT", "ID"))
                        assert theirs not in (mine, threads), "the parent's socket was used"
                        assert identity() not in (mine, threads, theirs)
                        for n in range(100):
                            asyncio.run(echo(f"child {n}"))
                        status = 0
                    thread = threading.Thread(target=child)
                    thread.start()
                    thread.join()
                finally:
                    os._exit(status)
            for n in range(2000):
                await echo(f"parent {n}")
            assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
            for n in range(100):
                await echo(f"after {n}")
            # The same connections as before: the child has closed none of them.
            assert await link.execute("CLIENT", "ID") == mine
            assert identity() == threads
            await listener.aclose()
        asyncio.run(both())
        """,
    )


@pytest.mark.anyio
async def test_letting_go_closes_our_copy_of_a_socket_and_nothing_else(
    redis: RedisServer, key_prefix: str
) -> None:
    """What a forked child does, done here, with a second copy of each socket for the parent's."""
    link = Link(Settings(redis_url=redis.url, key_prefix=key_prefix))
    listener = Listener(link, lambda *_: None, lambda: None)
    await listener.add(f"{key_prefix}c")
    await link.execute("PING")
    lane = next(iter(link._lanes.values()))
    assert isinstance(lane, Lane)
    conversation = lane._current
    assert conversation is not None
    assert conversation._transport is not None
    ours = conversation._transport.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(ours)) as parents:
        link.forked()
        assert not link.up
        assert str(Path(f"/proc/self/fd/{ours}").readlink()) == os.devnull
        parents.setblocking(True)
        parents.sendall(b"PING\r\n")
        assert parents.recv(100) == b"+PONG\r\n"
        assert await link.execute("ECHO", "anew") == b"anew"
    assert redis.execute("PUBLISH", f"{key_prefix}c", "x") == 0
    await listener.aclose()
    await link.aclose()


def test_a_pool_of_forked_workers(redis: RedisServer) -> None:
    run(
        redis.url,
        """
        import multiprocessing
        def work(n):
            assert link.execute_sync("ECHO", n) == b"%d" % n
            asyncio.run(echo(str(n)))
            return n
        asyncio.run(echo("parent"))
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(work, range(40)) == list(range(40))
        asyncio.run(echo("parent"))
        """,
    )


def test_a_fork_of_a_closed_link_stays_closed(redis: RedisServer) -> None:
    run(
        redis.url,
        """
        link.execute_sync("PING")
        link.close()
        pid = os.fork()
        begun = time.monotonic()
        try:
            link.execute_sync("PING")
            wrong = True
        except RedisUnavailable as error:
            wrong = error.reason != "closed" or time.monotonic() - begun > 2
        if pid == 0:
            os._exit(wrong)
        assert os.waitpid(pid, 0)[1] == 0 and not wrong
        """,
    )


@pytest.mark.parametrize("how", ["asyncio.run(echo('x'))", "link.execute_sync('PING')"])
def test_a_process_ends_quickly_and_quietly_without_close(redis: RedisServer, how: str) -> None:
    start = time.monotonic()
    run(redis.url, how)
    # Most of it is the start of an interpreter, on a machine that may have much else to do.
    assert time.monotonic() - start < 20


def test_a_process_ends_quietly_while_redis_is_away(free_port: int) -> None:
    run(
        f"redis://127.0.0.1:{free_port}",
        """
        import logging
        logging.getLogger("holdfast.link").addHandler(logging.NullHandler())
        assert not link.ready_sync()
        """,
    )


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.anyio
async def test_a_hundred_links_leave_no_task_no_thread_and_no_descriptor(
    redis: RedisServer, key_prefix: str
) -> None:
    async def live() -> None:
        link = Link(Settings(redis_url=redis.url, redis_timeout=10, key_prefix=key_prefix))
        listener = Listener(link, lambda *_: None, lambda: None)
        await listener.add("leaks")
        assert await link.execute("ECHO", "x") == b"x"
        assert await asyncio.to_thread(link.execute_sync, "ECHO", "x") == b"x"
        await listener.aclose()
        await link.aclose()

    await live()
    await asyncio.sleep(0)
    tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
    for _ in range(100):
        await live()
    gc.collect()
    await until(lambda: _descriptors() <= descriptors)
    await until(lambda: len(asyncio.all_tasks()) == tasks)
    await until(lambda: "holdfast-link" not in {each.name for each in threading.enumerate()})
