"""What clients saw, in order: the only thing that is judged, beside what Redis holds.

Values alone. Nothing here knows holdfast, and nothing of holdfast's inside is ever written down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Phase = Literal["before", "during", "after"]
Mode = Literal["closed", "readonly", "local"]
CookieNews = Literal["kept", "set", "deleted"]


@dataclass(frozen=True, slots=True)
class Act:
    """One request and its answer.

    Attributes:
        phase: before the fault, while it lasts, or when every process says that Redis is back.
        what: ``read``, ``write``, ``login``, ``logout``, ``rotate``, ``free``, ``steal`` (a read
            with a cookie that was logged out or replaced), ``issue``, ``consume``, ``emit``.
        status: of the answer; 0 where none came.
        seconds: until it came.
        at: the process that was asked.
        knows: whether that process has seen this session before.
        had_cookie: whether the request brought a session's cookie.
        cookie: what the answer did to the session's cookie.
        body: of the answer, where it is JSON.
        argument: what was asked for: the key and value written, the state, the numbers.
    """

    phase: Phase
    what: str
    status: int
    seconds: float = 0.0
    at: int = 0
    knows: bool = True
    had_cookie: bool = True
    cookie: CookieNews = "kept"
    body: Any = None
    argument: Any = None

    @property
    def done(self) -> bool:
        """Whether it was acknowledged."""
        return 200 <= self.status < 300

    @property
    def place(self) -> str:
        """Say which act it was."""
        return f"{self.what} {self.phase} at process {self.at}"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a reader was told.

    Attributes:
        kind: ``event``, ``gap``, ``reset``, ``end``, ``denied``, ``opened``, ``refused``.
        by, n: of an event: who published it, and its number among the publisher's.
        status: of an answer that was opened or refused.
        id: under which it was told.
    """

    kind: str
    by: str = ""
    n: int = 0
    status: int = 0
    id: str = ""


@dataclass(slots=True)
class Story:
    """One browser, or one run and its readers, from before the fault until after it.

    Attributes:
        mode: ``HOLDFAST_SESSION_ON_OUTAGE``.
        processes: how many there were.
        loses: the fault has Redis lose something of what it had acknowledged.
        gives_back: processes that saw the session just before the fault have to give it back then.
        in_traffic: a fault may have come between what a request read and what it wrote. A login as
            another that was refused then may have ended the session before it all the same.
        acts: in the order of their answers.
        readers: by name, what each was told.
        stored: by publisher, the numbers that Redis holds in the end, in its order.
    """

    mode: Mode
    processes: int
    loses: bool
    gives_back: bool = False
    in_traffic: bool = False
    acts: list[Act] = field(default_factory=list)
    readers: dict[str, list[Frame]] = field(default_factory=dict)
    stored: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Process:
    """What can be seen of one process from outside, around an outage.

    Attributes:
        log: the lines that it printed meanwhile.
        tasks, connections, megabytes: before the fault and after recovery.
    """

    log: tuple[str, ...] = ()
    tasks: tuple[int, int] = (0, 0)
    threads: tuple[int, int] = (0, 0)
    connections: tuple[int, int] = (0, 0)
    megabytes: tuple[float, float] = (0.0, 0.0)
