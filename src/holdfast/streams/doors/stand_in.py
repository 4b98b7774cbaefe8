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

    Rest = Callable[[asyncio.CancelledError | None], Awaitable[None]]
    """What is left of what has begun: called with the cancellation that the task is woken with, if
    it is (which may be for a timeout in there, and end there), and awaited by the task."""


_MARK = "_asyncio_future_blocking"
"""What a future is marked with as it is awaited, until the task that awaits it is handed it in the
same step: one that is marked already refuses who awaits it (``asyncio/futures.py``)."""


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


def begin_as(task: asyncio.Task[Any], context: Context, sending: Sending) -> Rest | None:
    """Begin *sending* while *task* sleeps, as if the task had done so.

    What is called finds *task* as the current one (as Python has it for whoever runs tasks, under
    "Extending asyncio"), so that a timeout or a cancel scope in it is the task's own.

    Args:
        task: of the running event loop, in which no task runs now.
        context: the context variables that all of it finds; not the task's own, which are in use.
        sending: not begun.

    Returns:
        What is left of it, an error too, which the task is to await before it does anything else,
        also when it is cancelled meanwhile; ``None`` where that was all.
    """
    loop = task.get_loop()  # to ask which one runs is a system call
    _enter_task(loop, task)
    try:
        waits = context.run(sending.send, None)
    except StopIteration:
        return None
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the task's
        return failed(error)
    finally:
        _leave_task(loop, task)
    # Others may await the same before the task is woken.
    if getattr(waits, _MARK, None):
        setattr(waits, _MARK, False)
    return partial(_go_on, context, sending, waits)


def failed(error: BaseException) -> Rest:
    """Return what is left of a send that could not be begun."""
    return partial(_fail, error)


async def _fail(error: BaseException, told: asyncio.CancelledError | None) -> None:
    raise error if told is None else told


@coroutine
def _go_on(
    context: Context, sending: Sending, waits: Any, told: asyncio.CancelledError | None
) -> Generator[Any, Any, None]:
    """Await the rest of what has begun and waits for something (PEP 380, spelled out)."""
    step = None
    awaited = getattr(waits, _MARK, None) is False
    # As Task.cancel() has it: first who is waited for is cancelled, and passes it on.
    if told is not None and not (awaited and waits.cancel(*told.args)):
        step = partial(sending.throw, told)
    elif awaited:
        setattr(waits, _MARK, True)
    while True:
        if step is None:
            try:
                said = yield waits
            except BaseException as error:  # noqa: BLE001 - a cancellation, too, is told to who waits
                step = partial(sending.throw, error)
            else:
                step = partial(sending.send, said)
        try:
            waits = context.run(step)
        except StopIteration:
            return
        step = None
