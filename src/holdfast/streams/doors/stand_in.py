"""Sending as a task that sleeps, without waking it.

To wake a task and to have it sleep again takes as long as what it is woken for, which is to hand a
few bytes to a server that takes them at once. Only what a server does not take at once needs the
task. Nothing of ours is in here: no event, and no reader.
"""

from __future__ import annotations

from asyncio import _enter_task, _leave_task, current_task
from functools import partial
from inspect import iscoroutinefunction
from types import coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from contextvars import Context

    from starlette.types import Message, Send

    Sending = Coroutine[Any, Any, None]


def this_task() -> asyncio.Task[Any]:
    """Return the task that runs now.

    Raises:
        RuntimeError: none does.
    """
    task = current_task()
    if task is None:
        raise RuntimeError("a stream is served in a task")
    return task


def as_coroutine_function(send: Send) -> Callable[[Message], Sending]:
    """Return *send* as something whose call does nothing yet, which of any callable is not said."""
    return send if iscoroutinefunction(send) else partial(_send, send)


async def _send(send: Send, message: Message) -> None:
    await send(message)


def begin_as(task: asyncio.Task[Any], context: Context, sending: Sending) -> Awaitable[None] | None:
    """Begin *sending* while *task* sleeps, as if the task had done so.

    What is called finds *task* as the current one (as Python has it for whoever runs tasks, under
    "Extending asyncio"), so that a timeout or a cancel scope in it is the task's own.

    Args:
        task: of the running event loop, in which no task runs now.
        context: the context variables that are found; not the task's own, which are in use.
        sending: not begun.

    Returns:
        What is left of it, an error too, which the task is to await before it does anything else;
        ``None`` where that was all.
    """
    loop = task.get_loop()  # to ask which one runs is a system call
    _enter_task(loop, task)
    try:
        waits = context.run(sending.send, None)
    except StopIteration:
        return None
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the task's
        return _raise(error)
    finally:
        _leave_task(loop, task)
    return _go_on(sending, waits)


# Not coroutines: of a task that is cancelled instead, nobody is told that it awaited none of them.


@coroutine
def _raise(error: BaseException) -> Generator[Any, Any, None]:
    raise error
    yield


@coroutine
def _go_on(sending: Sending, waits: Any) -> Generator[Any, Any, None]:
    """Await the rest of what has begun and waits for something (PEP 380, spelled out)."""
    while True:
        try:
            said = yield waits
        except BaseException as error:  # noqa: BLE001 - a cancellation, too, is told to who waits
            step = partial(sending.throw, error)
        else:
            step = partial(sending.send, said)
        try:
            waits = step()
        except StopIteration:
            return
