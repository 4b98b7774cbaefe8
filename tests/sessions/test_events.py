"""What is told of a session's life, to whom, and that telling harms nobody."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from tests.sessions.browser import Browser, Doing, app_of

from holdfast.runtime import runtime
from holdfast.sessions import events
from holdfast.sessions.choice import default_store
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.events import (
    SessionCreated,
    SessionDestroyed,
    SessionEvent,
    SessionExpired,
    SessionRefused,
    SessionRenewed,
    SessionRotated,
    SessionUnknown,
    on_session_event,
)
from holdfast.sessions.index import SessionIndex
from holdfast.sessions.session import Session, get_session
from holdfast.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio

KEY = "a key of more than sixteen characters"


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest, key_prefix: str) -> Settings:
    if request.param == "memory":
        return Settings(secret_key=KEY, key_prefix=key_prefix)
    redis: RedisServer = request.getfixturevalue("redis")
    return Settings(secret_key=KEY, redis_url=redis.url, key_prefix=key_prefix)


@pytest.fixture
def told() -> Iterator[list[SessionEvent]]:
    heard: list[SessionEvent] = []
    end = on_session_event(heard.append)
    yield heard
    end()


def visit(settings: Settings) -> tuple[Browser, Doing]:
    doing = Doing()
    return Browser(SessionMiddleware(doing, settings=settings)), doing


async def begun(settings: Settings) -> tuple[Browser, Doing, str]:
    browser, doing = visit(settings)
    doing.handle = lambda session: session.update(cart=[1])
    await browser.get()
    doing.handle = lambda session: session.id_hash
    return browser, doing, (await browser.get()).body.decode().strip("'")


async def test_the_life_of_a_session_is_told_in_order(
    settings: Settings, told: list[SessionEvent]
) -> None:
    browser, doing, id_hash = await begun(settings)
    old = dict(browser.cookies)
    steps = (
        lambda session: session.update(user_id=7),
        dict,
        Session.regenerate_id,
        lambda session: session.update(n=1),
        Session.invalidate,
    )
    for handle in steps:
        doing.handle = handle
        await browser.get()
    browser.cookies = old
    await browser.get()
    assert {event.id_hash for event in told} == {id_hash}
    assert [(type(event), event.user, getattr(event, "reason", None)) for event in told] == [
        (SessionCreated, None, None),
        (SessionRotated, "7", "user changed"),
        (SessionRotated, "7", "regenerated"),
        (SessionDestroyed, None, "invalidated"),
        (SessionUnknown, None, None),
    ]
    assert all(one.at <= other.at for one, other in itertools.pairwise(told))


async def test_a_cookie_that_comes_after_its_session_is_told(
    settings: Settings, told: list[SessionEvent]
) -> None:
    browser, _, id_hash = await begun(settings)
    # Its idle timeout was cut since, so that its data is still there.
    late = settings.override(session_idle_timeout=1)
    browser.app = SessionMiddleware(
        app_of(dict), settings=late, store=default_store(runtime(settings))
    )
    with anyio.fail_after(10):
        while not told or type(told[-1]) is SessionCreated:
            await anyio.sleep(0.05)
            if time.time() > told[0].at + 1.1:
                await browser.get()
    assert (type(told[-1]), told[-1].id_hash) == (SessionExpired, id_hash)


async def test_a_rotation_by_age_is_a_renewal(settings: Settings, told: list[SessionEvent]) -> None:
    browser, _, id_hash = await begun(settings.override(session_rotate_after=1))
    with anyio.fail_after(10):
        while SessionRenewed not in map(type, told):
            await anyio.sleep(0.05)
            await browser.get()
    assert {event.id_hash for event in told} == {id_hash}


async def test_a_session_left_empty_is_told_as_destroyed(
    settings: Settings, told: list[SessionEvent]
) -> None:
    browser, doing, id_hash = await begun(settings)
    doing.handle = dict.clear
    await browser.get()
    assert isinstance(told[-1], SessionDestroyed)
    assert (told[-1].id_hash, told[-1].reason) == (id_hash, "emptied")


async def test_a_revocation_and_the_write_that_comes_too_late_are_told(
    settings: Settings, told: list[SessionEvent]
) -> None:
    browser, doing, id_hash = await begun(settings)
    index = SessionIndex(settings)

    async def handle(session: Session) -> None:
        await index.revoke(id_hash)
        session["late"] = 1

    doing.handle = handle
    await browser.get()
    revoked, refused = told[-2:]
    assert isinstance(revoked, SessionDestroyed)
    assert revoked.reason == "revoked"
    assert isinstance(refused, SessionRefused)
    assert (refused.id_hash, refused.reason) == (id_hash, "ended")


async def test_a_forged_cookie_and_two_cookies_are_told_without_an_id(
    settings: Settings, told: list[SessionEvent]
) -> None:
    browser, _, _ = await begun(settings)
    other, _, _ = await begun(settings)
    mine, yours = browser.cookies["session"], other.cookies["session"]
    del told[:]
    await browser.get(cookie=f"session={mine[:-1]}".encode())
    await browser.get(cookie=f"session={mine}; session={yours}".encode())
    assert [(type(each), each.id_hash, getattr(each, "reason", None)) for each in told] == [
        (SessionRefused, None, "forged cookie"),
        (SessionRefused, None, "two cookies"),
    ]


async def test_a_session_that_begins_too_late_is_told(
    settings: Settings, told: list[SessionEvent]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        get_session(scope)["late"] = 1
        await send({"type": "http.response.body", "body": b""})

    await Browser(SessionMiddleware(app, settings=settings)).get()
    assert [(type(each), getattr(each, "reason", None)) for each in told] == [
        (SessionRefused, "too late")
    ]


async def test_a_listener_that_fails_harms_neither_the_request_nor_the_next(
    settings: Settings, told: list[SessionEvent], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: SessionEvent) -> None:
        raise ValueError(event.name)

    end = on_session_event(fail)
    heard: list[SessionEvent] = []
    end_too = on_session_event(heard.append)
    await begun(settings)
    end()
    end_too()
    assert len(told) == len(heard) == 1
    assert "a listener of session events failed on 'created'" in caplog.text
    await begun(settings)
    assert len(told) == 2
    assert len(heard) == 1


def test_a_listener_that_nobody_would_await_is_refused() -> None:
    async def listen(event: SessionEvent) -> None:
        """Never run."""

    for wrong in (listen, "listen"):
        with pytest.raises(TypeError, match="plain function"):
            on_session_event(wrong)  # type: ignore[arg-type]


def test_listeners_come_and_go_from_any_thread() -> None:
    def come_and_go() -> None:
        for _ in range(200):
            on_session_event(lambda event: None)()

    before = events._listeners
    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert events._listeners == before


def test_an_event_shows_no_user() -> None:
    event: Any = SessionCreated(id_hash="0" * 64, user="kim@example.com")
    assert "kim" not in repr(event)
    with pytest.raises(AttributeError):
        event.user = "another"
