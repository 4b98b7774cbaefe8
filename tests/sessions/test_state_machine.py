"""Browsers, tabs, processes and a clock, as wild as hypothesis likes, against a plain model.

The model is what the guide promises, written as dictionaries: it knows no cookie format, no store
and no policy object. Each process is a middleware with a store of its own; all are on one memory
or one real Redis. ``HOLDFAST_TEST_EXAMPLES`` asks for more examples than the suite has time for
(with ``-o faulthandler_timeout=0``: else a test of minutes is taken for one that hangs).
"""

from __future__ import annotations

import asyncio
import copy
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from tests.sessions.aging import age, patient
from tests.sessions.browser import Answer, Browser

from holdfast.link import Link
from holdfast.sessions.cookie import CookieSigner
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.record import decode_fields
from holdfast.sessions.session import Session, get_session
from holdfast.sessions.store import Record, SessionStore
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing import FrozenClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import Receive, Scope, Send

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("HOLDFAST_TEST_EXAMPLES", "500"))
PROCESSES = 3
KEY = "the key of the state machine"
# The clock moves by multiples of twenty seconds, and every term ends in between: the moments that a
# test takes by itself decide nothing. Touches are due after a quarter of the idle timeout.
LIFETIME, IDLE, TOUCH, ROTATE, GRACE = 990, 190, 50, 90, 30
TERMS = {
    "session_max_age": LIFETIME,
    "session_idle_timeout": IDLE,
    "session_touch_interval": TOUCH,
    "session_rotate_after": ROTATE,
}


# --- the world: real stores, real middlewares, one clock -----------------------------------------


class World:
    """Several processes on one store.

    Args:
        stores: one for each process.
        advance: moves the clock that decides about lifetimes, for the sessions of open requests
            as well.
    """

    def __init__(
        self, stores: list[SessionStore], advance: Callable[[float, list[Session]], None]
    ) -> None:
        self.stores = stores
        self.advance = advance
        self.signer = CookieSigner([KEY])
        own = Settings(secret_key=KEY, redis_url="off").override(**TERMS)
        self.apps = [SessionMiddleware(handle, settings=own, store=store) for store in stores]
        self.runner = asyncio.Runner()

    def stored(self, cookie: str, process: int) -> dict[str, Any] | None:
        """Return what the bearer of *cookie* would find, without asking the middleware."""
        presented = self.signer.verify(cookie.encode())
        assert presented
        load = self.stores[process].load(presented.credential.key, idle_timeout=IDLE)
        found = self.runner.run(load)
        return decode_fields(found.fields) if isinstance(found, Record) else None


@dataclass
class Tab:
    """A request on its way: loaded, and not yet answered."""

    visitor: Visitor
    token: str | None
    found: Known | None
    #: ``found``, ``new`` or ``over``: what the handler sees.
    standing: str
    #: The model's own copy of what the handler's dict was when loaded, and what it is now.
    base: dict[str, Any]
    data: dict[str, Any]
    seen: float = 0.0
    since: float = 0.0
    current: bool = True
    doomed: Known | None = None
    regenerate: bool = False

    session: Session = field(default_factory=Session)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[Answer] | None = None


async def handle(scope: Scope, receive: Receive, send: Send) -> None:
    """Lend the session to the test until it lets the answer go."""
    tab: Tab = scope["tab"]
    tab.session = get_session(scope)
    tab.loaded.set()
    await tab.go_on.wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


# --- the model -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Known:
    """A session as the guide describes it."""

    data: dict[str, Any]
    token: str
    created: float
    expires: float
    seen: float
    since: float
    alive: bool = True
    #: Earlier tokens, oldest first: until when, and whether they are still good.
    past: list[tuple[str, float, bool]] = field(default_factory=list)

    def standing(self, token: str, now: float) -> str:
        if not self.alive or now >= self.expires or now >= self.seen + IDLE:
            return "absent"
        if token == self.token:
            return "current"
        for old, until, good in self.past:
            if old == token and now < until:
                return "grace" if good else "killed"
        return "absent"

    def kill_older(self, now: float) -> None:
        living = [(old, now + GRACE, False) for old, until, _ in self.past if now < until]
        self.past = [*living[-3:], (self.token, now + GRACE, False)]

    def retire(self, now: float) -> None:
        living = [each for each in self.past if now < each[1]]
        self.past = [*living[-3:], (self.token, now + GRACE, True)]


@dataclass(eq=False)
class Visitor:
    """A browser, or a thief with a copy of its cookie."""

    token: str | None = None


# --- the machine ---------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c", "cart"])
VALUES = st.sampled_from([0, 1, True, None, "x", [], [1], {"n": 1}])
SECONDS = st.sampled_from([20, 20, 20, 40, 80, 100, 180, 1000])
PROCESS = st.integers(0, PROCESSES - 1)


class Machine(RuleBasedStateMachine):
    """What users, attackers and the clock do; each answer is compared with the model's."""

    world: World

    visitors = Bundle("visitors")
    tabs = Bundle("tabs")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sessions: list[Known] = []
        self.owners: dict[str, Known] = {}
        self.open: list[Tab] = []

    @initialize(target=visitors)
    def arrive(self) -> Any:
        return multiple(Visitor(), Visitor())

    # --- what people do -------------------------------------------------------------------------

    @rule(target=visitors, visitor=visitors)
    def steal(self, visitor: Visitor) -> Visitor:
        """Whoever has copied a cookie is a browser of its own."""
        return Visitor(visitor.token)

    @rule(target=tabs, visitor=visitors, process=PROCESS)
    def open_tab(self, visitor: Visitor, process: int) -> Tab:
        return self.opened(visitor, process)

    @rule(tab=tabs, key=KEYS, value=VALUES)
    def write(self, tab: Tab, key: str, value: Any) -> None:
        tab.session[key] = copy.deepcopy(value)
        tab.data[key] = copy.deepcopy(value)

    @rule(tab=tabs)
    def append(self, tab: Tab) -> None:
        if isinstance(tab.data.get("cart"), list):
            tab.session["cart"].append(len(tab.data))
            tab.data["cart"].append(len(tab.data))

    @rule(tab=tabs, key=KEYS)
    def remove(self, tab: Tab, key: str) -> None:
        tab.session.pop(key, None)
        tab.data.pop(key, None)

    @rule(tab=tabs, user=st.sampled_from([1, 2]))
    def log_in(self, tab: Tab, user: int) -> None:
        tab.session["user_id"] = user
        tab.data["user_id"] = user

    @rule(tab=tabs)
    def regenerate(self, tab: Tab) -> None:
        tab.session.regenerate_id()
        tab.regenerate = tab.standing == "found"

    @rule(tab=tabs)
    def clear(self, tab: Tab) -> None:
        tab.session.clear()
        tab.data.clear()

    @rule(tab=tabs)
    def log_out(self, tab: Tab) -> None:
        tab.session.invalidate()
        tab.data.clear()
        if tab.standing == "found":
            tab.doomed, tab.standing, tab.base = tab.found, "new", {}
            tab.regenerate = False

    @rule(tab=consumes(tabs))
    def answer(self, tab: Tab) -> None:
        self.finished(tab)

    @rule(visitor=visitors, process=PROCESS, key=KEYS, value=VALUES)
    def visit(self, visitor: Visitor, process: int, key: str, value: Any) -> None:
        tab = self.opened(visitor, process)
        self.write(tab, key, value)
        self.finished(tab)

    @rule(visitor=visitors, process=PROCESS)
    def read(self, visitor: Visitor, process: int) -> None:
        self.finished(self.opened(visitor, process))

    @rule(visitor=visitors, process=PROCESS, user=st.sampled_from([1, 2]))
    def visit_to_log_in(self, visitor: Visitor, process: int, user: int) -> None:
        tab = self.opened(visitor, process)
        self.log_in(tab, user)
        self.finished(tab)

    @rule(visitor=visitors, process=PROCESS)
    def visit_to_log_out(self, visitor: Visitor, process: int) -> None:
        tab = self.opened(visitor, process)
        self.log_out(tab)
        self.finished(tab)

    @rule(visitor=visitors, number=st.integers(2, 6))
    def write_in_parallel(self, visitor: Visitor, number: int) -> None:
        """Tabs that are loaded and answered together, each with a key of its own."""
        tabs = [self.opened(visitor, at % PROCESSES) for at in range(number)]
        for at, tab in enumerate(tabs):
            self.write(tab, f"k{at}", at)
        if visitor.token is not None and all(tab.standing == "found" for tab in tabs):
            self.finish_together(tabs)
        else:
            for tab in tabs:
                self.finished(tab)

    @rule(seconds=SECONDS)
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.world.advance(seconds, [tab.session for tab in self.open])

    # --- one request ----------------------------------------------------------------------------

    def opened(self, visitor: Visitor, process: int) -> Tab:
        tab = self.expected_on_load(visitor)
        browser = Browser(self.world.apps[process])
        if visitor.token is not None:
            browser.cookies["session"] = visitor.token
        scope = {**browser.scope(), "tab": tab}

        async def begin() -> None:
            tab.task = asyncio.create_task(browser.run(scope, [{"type": "http.request"}]))
            await tab.loaded.wait()

        self.world.runner.run(begin())
        assert dict(tab.session) == tab.data
        assert tab.session.is_new is (tab.standing != "found")
        self.open.append(tab)
        return tab

    def expected_on_load(self, visitor: Visitor) -> Tab:
        known = self.owners.get(visitor.token or "")
        standing = "absent" if known is None else known.standing(visitor.token or "", self.now)
        if known is None or standing in {"absent", "killed"}:
            return Tab(
                visitor, visitor.token, None, "over" if standing == "killed" else "new", {}, {}
            )
        base, data = copy.deepcopy(known.data), copy.deepcopy(known.data)
        times = {"seen": known.seen, "since": known.since, "current": standing == "current"}
        return Tab(visitor, visitor.token, known, "found", base, data, **times)  # type: ignore[arg-type]

    def finished(self, tab: Tab) -> None:
        self.compare(tab, self.world.runner.run(answered(tab)), self.expected_on_answer(tab))

    def finish_together(self, tabs: list[Tab]) -> None:
        async def all_of_them() -> list[Answer]:
            return await asyncio.gather(*(answered(tab) for tab in tabs))

        answers = self.world.runner.run(all_of_them())
        # Which of them renewed an old secret is chance; that one did, at most, is not.
        first = [at for at, answer in enumerate(answers) if answer.set_cookie]
        order = sorted(range(len(tabs)), key=lambda at: at not in first)
        for at in order:
            self.compare(tabs[at], answers[at], self.expected_on_answer(tabs[at]))

    def compare(self, tab: Tab, answer: Answer, expected: str) -> None:
        assert answer.status == 200
        sent = answer.set_cookie
        if expected == "keep":
            assert sent is None
        elif expected == "remove":
            assert sent is not None
            assert sent.startswith("session=null;")
            tab.visitor.token = None
        else:
            assert sent is not None
            token = sent.removeprefix("session=").partition(";")[0]
            assert token not in self.owners
            known = self.sessions[-1] if expected == "new" else tab.found
            assert known is not None
            known.token = token
            self.owners[token] = known
            tab.visitor.token = token

    def expected_on_answer(self, tab: Tab) -> str:
        """Do to the model what the request did; say what becomes of the cookie."""
        self.open.remove(tab)
        changed = {
            key: value
            for key, value in tab.data.items()
            if key not in tab.base or repr(tab.base[key]) != repr(value)
        }
        removed = [key for key in tab.base if key not in tab.data]
        if tab.doomed is not None:
            tab.doomed.alive = False
        if tab.standing == "over":
            return "keep"
        if tab.standing == "new":
            if tab.data:
                now = self.now
                self.sessions.append(Known(dict(tab.data), "", now, now + LIFETIME, now, now))
                return "new"
            return "remove" if tab.doomed is not None else "keep"
        assert tab.found is not None
        return self.expected_of_found(tab, tab.found, changed, removed)

    def expected_of_found(
        self, tab: Tab, known: Known, changed: dict[str, Any], removed: list[str]
    ) -> str:
        user_changed = tab.base.get("user_id") != tab.data.get("user_id")
        kills = tab.regenerate or user_changed
        renews = not kills and tab.current and self.now - tab.since >= ROTATE
        standing = known.standing(tab.token or "", self.now)
        if standing not in {"current", "grace"}:
            return "keep"
        if not (kills or renews or changed or removed):
            if self.now - tab.seen >= TOUCH and self.now - known.seen >= TOUCH:
                known.seen = self.now
            return "keep"
        known.data = {k: v for k, v in known.data.items() if k not in removed} | changed
        if removed and not known.data:
            known.alive = False
            return "remove"
        known.seen = self.now
        if kills:
            known.kill_older(self.now)
            known.since, known.expires = self.now, self.now + LIFETIME
            return "same"
        if renews and standing == "current":
            known.retire(self.now)
            known.since = self.now
            return "same"
        return "keep"

    # --- what always holds ----------------------------------------------------------------------

    @invariant()
    def the_latest_sessions_are_what_the_model_says(self) -> None:
        for known in self.sessions[-2:]:
            self.check(known)

    def check(self, known: Known) -> None:
        process = len(self.owners) % PROCESSES
        lives = known.standing(known.token, self.now) == "current"
        assert self.world.stored(known.token, process) == (known.data if lives else None)
        for old, _, _ in known.past:
            good = known.standing(old, self.now) in {"current", "grace"}
            assert self.world.stored(old, process) == (known.data if good else None)

    def teardown(self) -> None:
        for known in self.sessions:
            self.check(known)
        self.world.runner.run(leave_nothing())


async def answered(tab: Tab) -> Answer:
    assert tab.task
    tab.go_on.set()
    return await tab.task


async def leave_nothing() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    mine = [task for task in others if "Browser.run" in repr(task.get_coro())]
    for task in mine:
        task.cancel()
    await asyncio.gather(*mine, return_exceptions=True)


def play(world: World, examples: int) -> None:
    machine = type("Machine", (Machine,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- on every store ------------------------------------------------------------------------------


@pytest.fixture
def memory_world() -> Iterator[World]:
    with FrozenClock() as clock:
        store = MemorySessionStore(clock=clock)
        world = World([store] * PROCESSES, lambda seconds, _: clock.advance(seconds))
        with world.runner:
            yield world


@pytest.fixture
def redis_world(redis: RedisServer, key_prefix: str) -> Iterator[World]:
    own = patient(redis, key_prefix)
    link = Link(own)

    def advance(seconds: float, opened: list[Session]) -> None:
        for exchange in filter(None, [session._exchange for session in opened]):
            if exchange.record is not None:
                told = exchange.record._asdict()
                times = ("created_at", "expires_at", "seen_at", "secret_since")
                earlier = {name: told[name] - seconds for name in times}
                exchange.record = Record(**(told | earlier))
        age(redis, key_prefix, seconds)

    world = World([RedisSessionStore(own, link=link) for _ in range(PROCESSES)], advance)
    with world.runner:
        yield world
        world.runner.run(link.aclose())


def test_no_history_on_memory_differs_from_the_model(memory_world: World) -> None:
    play(memory_world, EXAMPLES // 2)


def test_no_history_on_redis_differs_from_the_model(redis_world: World) -> None:
    play(redis_world, EXAMPLES)
