"""The frozen clock and the faulty store, which tests of sessions are built on."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

import anyio
import pytest

import holdfast.testing
from holdfast.errors import CorruptData, SessionUnavailable
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.store import Change, Missing, Outcome, Record
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.settings import Settings
from holdfast.testing import FaultyStore, FrozenClock
from holdfast.testing.session_middleware import Visitor, session_app
from holdfast.testing.session_store import SessionStoreSuite, new_key

pytestmark = pytest.mark.anyio


class TestAFaultyStoreWithoutFaults(SessionStoreSuite):
    async def make_store(self) -> FaultyStore:
        return FaultyStore(MemorySessionStore())


def test_every_name_is_there() -> None:
    for name in holdfast.testing.__all__:
        assert name in dir(holdfast.testing)
        assert getattr(holdfast.testing, name)


def test_a_frozen_clock_stands_still_until_it_is_moved() -> None:
    with FrozenClock(1_000_000.0) as clock:
        assert time.time() == clock() == 1_000_000.0
        clock.advance(60)
        assert datetime.fromtimestamp(time.time(), UTC).minute == 47
        assert repr(clock) == "<FrozenClock at 1000060.0>"
    assert time.time() > 1_700_000_000
    assert FrozenClock().now > 1_700_000_000


async def test_a_fault_holds_for_as_many_calls_as_was_said() -> None:
    store, key = FaultyStore(MemorySessionStore()), new_key()
    store.fail("load", times=1)
    with pytest.raises(SessionUnavailable):
        await store.load(key)
    assert await store.load(key) is Missing.ABSENT
    store.fail()
    for call in (
        store.create(key, {}, max_age=1),
        store.save(key, Change()),
        store.touch(key, idle_timeout=1),
        store.delete(key.id_hash),
    ):
        with pytest.raises(SessionUnavailable):
            await call
    store.heal()
    assert await store.create(key, {}, max_age=1) is Outcome.DONE
    assert store.calls == {"load": 2, "create": 2, "save": 1, "touch": 1, "delete": 1}
    assert store.writable
    await store.flush()
    assert "around <MemorySessionStore" in repr(store)
    with pytest.raises(ValueError, match="no 'update', only load"):
        store.fail("update")


async def test_an_answer_can_be_lost_of_what_was_done_and_any_error_be_raised() -> None:
    store, key = FaultyStore(MemorySessionStore()), new_key()
    store.lose_answers("create")
    with pytest.raises(SessionUnavailable):
        await store.create(key, {"a": b"1"}, max_age=9)
    assert isinstance(await store.load(key), Record)
    store.fail("load", error=lambda: CorruptData("as from a bad disk"))
    with pytest.raises(CorruptData):
        await store.load(key)


async def test_a_call_can_be_delayed() -> None:
    store = FaultyStore(MemorySessionStore())
    store.delay(30, "load")
    with anyio.move_on_after(0.02) as scope:
        await store.load(new_key())
    assert scope.cancelled_caught


async def test_what_an_application_does_when_its_store_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, settings = FaultyStore(MemorySessionStore()), Settings(secret_key="k" * 20)
    visitor = Visitor()

    def app(handle: object) -> SessionMiddleware:
        return SessionMiddleware(session_app(handle), settings=settings, store=store)  # type: ignore[arg-type]

    await visitor.visit(app(lambda session: session.update(a=1)))
    store.fail("load")
    assert (await visitor.visit(app(dict))).body == {}
    assert (await visitor.visit(app(lambda session: session.update(a=2)))).status == 503
    assert visitor.cookie
    store.heal()
    # A retry after a lost answer is nobody's second session.
    store.lose_answers("save", times=1)
    assert (await visitor.visit(app(lambda session: session.update(a=3)))).status == 503
    assert (await visitor.visit(app(dict))).body == {"a": 3}
    store.fail("load", error=lambda: CorruptData("as from a bad disk"))
    assert (await visitor.visit(app(dict))).body == {}
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
