"""Sending as a task that sleeps: what it calls, what is left to the task, and whose errors."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.streams.doors.stand_in import as_coroutine_function, begin_as, this_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Message

    from holdfast.streams.doors.stand_in import Rest

whose: ContextVar[str] = ContextVar("whose", default="nobody's")

MESSAGE: Message = {"type": "http.response.body", "body": b"x", "more_body": True}


class Sleeper:
    """A task that sleeps until something of it is begun, and awaits what is left of that.

    Args:
        send: what is called with a message in place of the task.
    """

    def __init__(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self.left: Rest | None = None
        self._send = as_coroutine_function(send)
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._sleep())

    async def _sleep(self) -> None:
        whose.set("the task's")
        self._context = copy_context()
        try:
            await self._begun
        except asyncio.CancelledError as error:
            if self.left is None:
                raise
            await self.left(error)
        else:
            if self.left is not None:
                await self.left(None)

    async def begin(self) -> None:
        """Begin in a turn of the loop in which no task runs."""
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(self._begin)
        await asyncio.sleep(0)

    def _begin(self) -> None:
        self.left = begin_as(self.task, self._context, self._send(MESSAGE))
        self._begun.set_result(None)


class Called:
    """What a send noted: the task that it found, and its context variable."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, str]] = []

    def note(self) -> None:
        self.found.append((asyncio.current_task(), whose.get()))


async def test_what_is_taken_at_once_leaves_nothing_to_the_task() -> None:
    called, taken = Called(), []

    async def send(message: Message) -> None:
        called.note()
        taken.append(message)

    sleeper = Sleeper(send)
    await sleeper.begin()
    assert sleeper.left is None
    assert taken == [MESSAGE]
    assert called.found == [(sleeper.task, "the task's")]
    assert asyncio.current_task() is not sleeper.task
    await sleeper.task


async def test_the_rest_of_what_waits_is_the_tasks_own() -> None:
    called, gate, done = Called(), asyncio.Event(), []

    async def send(message: Message) -> None:
        called.note()
        await asyncio.sleep(0)
        await gate.wait()
        called.note()
        done.append(message)

    sleeper = Sleeper(send)
    await sleeper.begin()
    assert sleeper.left is not None
    await asyncio.sleep(0.01)
    assert not done
    gate.set()
    await asyncio.wait_for(sleeper.task, 10)
    assert done == [MESSAGE]
    assert [task for task, _ in called.found] == [sleeper.task] * 2


@pytest.mark.parametrize("turns", [0, 1])
async def test_an_error_is_raised_in_the_task(turns: int) -> None:
    async def send(_: Message) -> None:
        for _turn in range(turns):
            await asyncio.sleep(0)
        raise OSError("the client is gone")

    sleeper = Sleeper(send)
    await sleeper.begin()
    with pytest.raises(OSError, match="the client is gone"):
        await asyncio.wait_for(sleeper.task, 10)


async def test_a_cancelled_task_cancels_what_is_left() -> None:
    seen = []

    async def send(_: Message) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    sleeper = Sleeper(send)
    await sleeper.begin()
    await asyncio.sleep(0)
    sleeper.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sleeper.task, 10)
    assert seen == ["cancelled", "cleaned up"]


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_cancellation_before_the_task_wakes_is_told_to_what_was_begun(turns: int) -> None:
    seen: list[Any] = []

    async def send(_: Message) -> None:
        try:
            for _turn in range(turns):
                await asyncio.sleep(0)
            raise OSError("the client is gone")
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cancelled")
            raise
        finally:
            seen.append(asyncio.current_task())

    sleeper = Sleeper(send)
    await sleeper.begin()
    sleeper.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sleeper.task, 10)
    assert seen == ["cancelled"] * turns + [sleeper.task]


async def test_what_is_waited_for_may_be_awaited_by_others_meanwhile() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def send(_: Message) -> None:
        await gate

    async def come_before_the_tasks_wake() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all(sleeper.left for sleeper in sleepers)
        await gate

    sleepers = [Sleeper(send), Sleeper(send)]
    begins = [sleeper.begin() for sleeper in sleepers]
    passing = asyncio.gather(*begins, come_before_the_tasks_wake())
    await asyncio.sleep(0.01)
    gate.set_result(None)
    await asyncio.wait_for(passing, 10)
    await asyncio.wait_for(asyncio.gather(*(sleeper.task for sleeper in sleepers)), 10)


async def test_a_cancellation_before_the_task_wakes_reaches_whom_that_waits_for() -> None:
    seen: list[Any] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    async def send(_: Message) -> None:
        try:
            await working
        except asyncio.CancelledError:
            seen.append("the sender")
            raise

    working = asyncio.create_task(work())
    sleeper = Sleeper(send)
    await sleeper.begin()
    sleeper.task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sleeper.task, 10)
    assert seen == [("enough",), "the sender"]


async def test_all_of_it_finds_one_context() -> None:
    found = []

    async def send(_: Message) -> None:
        before = whose.set("the send's")
        await asyncio.sleep(0)
        found.append(whose.get())
        try:
            await asyncio.Event().wait()
        finally:
            whose.reset(before)
            found.append(whose.get())

    sleeper = Sleeper(send)
    await sleeper.begin()
    await asyncio.sleep(0.01)
    sleeper.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sleeper.task, 10)
    assert found == ["the send's", "the task's"]


async def test_a_timeout_in_what_was_begun_is_the_tasks_own() -> None:
    late = []

    async def send(_: Message) -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            late.append(asyncio.current_task())

    sleeper = Sleeper(send)
    await sleeper.begin()
    await asyncio.wait_for(sleeper.task, 10)
    assert late == [sleeper.task]


async def test_a_send_that_is_no_coroutine_function_is_called_in_the_context_too() -> None:
    called = Called()

    def send(_: Message) -> Awaitable[None]:
        called.note()
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        taken.set_result(None)
        return taken

    sleeper = Sleeper(send)
    await sleeper.begin()
    await asyncio.wait_for(sleeper.task, 10)
    assert sleeper.left is None
    assert called.found == [(sleeper.task, "the task's")]


def test_outside_a_task_there_is_nobody_to_stand_in_for() -> None:
    async def outside() -> None:
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[None] = loop.create_future()

        def ask() -> None:
            with pytest.raises(RuntimeError, match="in a task"):
                this_task()
            asked.set_result(None)

        loop.call_soon(ask)
        await asked

    asyncio.run(outside())
