"""What a forked child finds: locks that are free, and nothing of its parent's."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from holdfast import forks
from holdfast.endings import Endings
from holdfast.runtime import runtime
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # with threads: the point here
]


def holds_in_a_child(check: Callable[[], bool]) -> bool:
    """Whether *check* is true in a forked child; false as well where it hangs or raises there."""
    child = os.fork()
    if child == 0:
        status = 1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)  # ends a child that waits for a lock
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Owner:
    def __init__(self) -> None:
        self.told = 0

    def forked(self) -> None:
        self.told += 1


def test_who_watches_is_told_once_in_each_child_and_never_in_the_parent() -> None:
    owner = Owner()
    for _ in range(3):
        forks.watch_forks(owner)
    assert holds_in_a_child(lambda: owner.told == 1)
    assert holds_in_a_child(
        lambda: owner.told == 1 and holds_in_a_child(lambda: owner.told == 2),
    )
    assert owner.told == 0


def test_two_threads_that_register_at_once_have_nobody_told_twice() -> None:
    program = """
        import os, sys
        from holdfast import forks
        class Owner:
            told = 0
            def forked(self):
                self.told += 1
        owner = Owner()
        for _ in range(2):
            forks._registered.clear()  # as the other thread still sees it
            forks.watch_forks(owner)
        child = os.fork()
        if not child:
            os._exit(0 if owner.told == 1 else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    assert subprocess.run(command, check=False, timeout=30).returncode == 0


def test_one_that_fails_keeps_nobody_else_from_being_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Owner):
        def forked(self) -> None:
            super().forked()
            raise RuntimeError("no")

    owners = [Owner(), Failing(), Owner(), Failing()]
    for owner in owners:
        forks.watch_forks(owner)
    with caplog.at_level(logging.CRITICAL, "holdfast"):
        assert holds_in_a_child(lambda: [owner.told for owner in owners] == [1, 1, 1, 1])


def test_who_is_gone_is_not_kept_for_it() -> None:
    owner = Owner()
    forks.watch_forks(owner)
    before = len(forks._watched)
    del owner
    assert len(forks._watched) == before - 1


def test_the_runtime_can_be_used_in_a_child_forked_while_a_thread_makes_something() -> None:
    inside, leave = threading.Event(), threading.Event()
    one, other = runtime(Settings()), Settings(session_max_age=77)

    def make() -> str:
        inside.set()
        leave.wait(30)
        return "the parent's"

    thread = threading.Thread(target=lambda: one.once("slow", make))
    thread.start()
    try:
        assert inside.wait(5)
        assert holds_in_a_child(lambda: one.once("slow", lambda: "mine") == "mine")
        assert holds_in_a_child(lambda: runtime(other).once("x", lambda: 1) == 1)
    finally:
        leave.set()
        thread.join()
    assert one.once("slow", lambda: "another") == "the parent's"


@pytest.mark.anyio
async def test_who_watches_for_endings_in_the_parent_does_not_in_a_child() -> None:
    endings, ended = Endings(), list[str]()
    forget = endings.watch("a", "s", lambda: ended.append("a"), lambda: None)

    def check() -> bool:
        endings.tell("a")
        return not ended and repr(endings) == "<Endings, 0 watching>"

    with endings._lock:
        assert holds_in_a_child(check)
    endings.tell("a")
    assert ended == ["a"]
    forget()
