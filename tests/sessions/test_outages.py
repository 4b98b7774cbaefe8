"""Sessions while a real Redis dies, hangs and comes back."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from tests.sessions.aging import age
from tests.sessions.browser import Browser, Doing
from tests.sessions.outage import HOUR, KEY, Outage, away, back, session_keys, settings_for, until

from holdfast.errors import SessionUnavailable
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.outage import replay
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.outage.recovery import ByLink
from holdfast.sessions.session import Session, get_session
from holdfast.sessions.store import Change, Missing, Outcome, Record, Rotation, SessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing import redis_server
from holdfast.testing.session_store import SessionStoreSuite, new_key, new_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from holdfast.testing import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def kept_redis() -> Iterator[RedisServer]:
    """A Redis that keeps its data when it is killed."""
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


class TestFallbackWhileRedisIsAway(SessionStoreSuite):
    """Everything the suite asks holds for sessions born in an outage as well."""

    @pytest.fixture(autouse=True)
    def _settings(self, free_port: int) -> None:
        self.settings = Settings(redis_url=f"redis://127.0.0.1:{free_port}")

    async def make_store(self) -> SessionStore:
        return FallbackSessionStore(self.settings)


# What a journal does not promise: grace after rotation by age, because nothing is rotated by age
# then, and to tell apart an id that is unknown from one that only Redis knows.
for _name in (
    "test_an_old_secret_in_its_grace_reads_and_writes",
    "test_a_second_rotation_by_age_leaves_it_at_the_first",
    "test_a_grace_ends",
    "test_a_regeneration_ends_the_grace_of_every_older_secret",
    "test_many_regenerations_leave_one_secret",
    "test_an_unknown_id_is_absent_and_loading_it_creates_nothing",
    "test_a_wrong_secret_is_as_absent_as_an_unknown_id",
    "test_an_id_cannot_be_given_twice",
    "test_deleting_what_is_absent_is_told_and_remembered",
    "test_the_same_rotation_again_is_done",
    "test_a_late_save_does_not_undo_a_logout",
):
    setattr(TestFallbackWhileRedisIsAway, _name, None)


async def test_a_session_used_lately_is_served_and_its_changes_survive(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis)
    await outage.log_in()
    await outage.begin()
    assert (
        await outage.do(lambda s: (s.degraded, s.available, s["user_id"])) == b"('stale', True, 7)"
    )
    await outage.do(lambda s: s["cart"].append(2))
    assert await outage.do(lambda s: s["cart"]) == b"[1, 2]"
    await outage.end()
    assert await outage.seen_by_another_process() == b"{'cart': [1, 2], 'user_id': 7}"
    assert await outage.do(lambda s: s.degraded) == b"None"
    assert outage.store.waiting == 0


async def test_a_change_of_the_outage_leaves_the_keys_of_others_alone(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis)
    await outage.log_in()
    await outage.begin()
    await outage.do(lambda s: s.update(mine=1))
    kept_redis.start()
    (name,) = session_keys(kept_redis)
    kept_redis.execute("HSET", name, "theirs", "1")
    await back(outage.settings)
    seen = await outage.seen_by_another_process()
    assert seen == b"{'cart': [1], 'mine': 1, 'theirs': 1, 'user_id': 7}"


async def test_a_session_born_in_an_outage_moves_to_redis(kept_redis: RedisServer) -> None:
    outage = Outage(kept_redis)
    await outage.do(dict)
    await outage.begin()
    await outage.log_in()
    assert await outage.do(lambda s: (s.degraded, s.is_new)) == b"('local', False)"
    await outage.end()
    assert await outage.seen_by_another_process() == b"{'cart': [1], 'user_id': 7}"
    assert await outage.do(lambda s: s.degraded) == b"None"


async def test_who_logged_out_in_an_outage_stays_logged_out(kept_redis: RedisServer) -> None:
    outage = Outage(kept_redis)
    await outage.log_in()
    stolen = Browser(outage.app, dict(outage.browser.cookies))
    await outage.begin()
    outage.doing.handle = Session.invalidate
    assert "1970" in ((await outage.browser.get()).set_cookie or "")
    assert await outage.do(dict, stolen) == b"{}"
    await outage.end()
    outage.browser.cookies.update(stolen.cookies)
    assert await outage.seen_by_another_process() == b"{}"
    assert await outage.do(dict) == b"{}"


async def test_who_logs_out_where_the_session_is_not_known_stays_logged_out(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis)
    await outage.log_in()
    cookies = dict(outage.browser.cookies)
    await outage.begin()
    fresh = FallbackSessionStore(outage.settings)
    app = SessionMiddleware(outage.doing, settings=outage.settings, store=fresh)
    browser = Browser(app, dict(cookies))
    outage.doing.handle = Session.invalidate
    answer = await browser.get()
    assert answer.status == 200
    assert "1970" in (answer.set_cookie or "")
    assert fresh.waiting == 1
    await outage.end()
    await until(lambda: fresh.waiting == 0)
    outage.doing.handle = dict
    assert (await Browser(app, dict(cookies)).get()).body == b"{}"
    assert await outage.seen_by_another_process() == b"{}"


async def test_a_regeneration_in_an_outage_kills_the_old_cookie_for_good(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis)
    await outage.log_in()
    stolen = Browser(outage.app, dict(outage.browser.cookies))
    await outage.begin()
    await outage.do(Session.regenerate_id)
    assert outage.browser.cookies != stolen.cookies
    assert await outage.do(dict, stolen) == b"{}"
    assert b"cart" in await outage.do(dict)
    await outage.end()
    assert b"cart" in await outage.seen_by_another_process()
    outage.browser.cookies.update(stolen.cookies)
    assert await outage.seen_by_another_process() == b"{}"


async def test_a_session_deleted_meanwhile_is_not_brought_back(kept_redis: RedisServer) -> None:
    outage = Outage(kept_redis)
    await outage.log_in()
    await outage.begin()
    await outage.do(lambda s: s.update(late=1))
    kept_redis.start()
    kept_redis.execute("DEL", *session_keys(kept_redis))
    await back(outage.settings)
    assert await outage.do(dict) == b"{}"
    assert session_keys(kept_redis) == []


async def test_what_this_process_does_not_know_is_unavailable_and_keeps_its_cookie(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis)
    await outage.log_in()
    cookies = dict(outage.browser.cookies)
    await outage.begin()
    fresh = FallbackSessionStore(outage.settings)
    doing = Doing()
    browser = Browser(SessionMiddleware(doing, settings=outage.settings, store=fresh), cookies)

    doing.handle = lambda s: (s.available, s.is_new, s.owner, dict(s), s.created_at)
    answer = await browser.get()
    assert answer.body == b"(False, False, None, {}, None)"
    assert answer.set_cookie is None

    refused: list[Any] = [
        lambda s: s.update(a=1),
        lambda s: s.clear(),
        # As many an application logs out: nobody knows whether there was a user.
        lambda s: s.pop("user_id", None),
        lambda s: s.popitem(),
        Session.regenerate_id,
        lambda s: s.id_hash,
    ]
    for doing.handle in refused:
        answer = await browser.get()
        assert answer.status == 503
        assert answer.set_cookie is None
        assert answer.one("retry-after") == "2"
        assert answer.one("cache-control") == "no-store"
    await outage.end()
    doing.handle = dict
    assert b"cart" in (await browser.get()).body


async def test_hidden_keys_read_as_missing_from_a_copy_and_are_not_lost(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis, session_fresh_keys=("is_admin",))
    outage.doing.handle = lambda s: s.update(is_admin=True, a=1)
    await outage.browser.get()
    assert b"is_admin" in await outage.do(dict)
    await outage.begin()
    assert await outage.do(dict) == b"{'a': 1}"
    await outage.do(lambda s: s.clear())
    await outage.end()
    assert await outage.seen_by_another_process() == b"{'is_admin': True}"


async def test_readonly_serves_what_it_knows_and_refuses_every_write(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis, session_on_outage="readonly", session_idle_timeout=1000)
    await outage.log_in()
    await outage.begin()
    assert b"cart" in await outage.do(dict)
    visitor = Browser(outage.app)
    assert await outage.do(dict, visitor) == b"{}"
    for browser in (outage.browser, visitor):
        outage.doing.handle = lambda s: s.update(a=1)
        answer = await browser.get()
        assert (answer.status, answer.set_cookie) == (503, None)
    outage.doing.handle = lambda s: s["cart"].append(2)
    answer = await outage.browser.get()
    assert (answer.status, answer.types) == (503, ["http.response.start", "http.response.body"])
    assert await outage.do(lambda s: s["cart"]) == b"[1]"
    await outage.end()
    assert await outage.seen_by_another_process() == b"{'cart': [1], 'user_id': 7}"


async def test_readonly_does_not_fail_for_the_sake_of_a_timestamp(
    kept_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(kept_redis, session_on_outage="readonly", session_idle_timeout=400)
    await outage.log_in()
    await outage.begin()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 200)
    assert b"cart" in await outage.do(dict)
    monkeypatch.setattr(time, "time", lambda: real() + 500)
    assert b"cart" in await outage.do(dict)
    monkeypatch.setattr(time, "time", lambda: real() + 901)
    assert await outage.do(dict) == b"{}"


async def test_closed_refuses_the_first_access_and_leaves_the_rest_alone(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis, session_on_outage="closed")
    await outage.log_in()
    await outage.begin()
    accesses: list[Any] = [
        dict,
        len,
        bool,
        list,
        lambda s: "a" in s,
        lambda s: s["a"],
        lambda s: s.get("a"),
        lambda s: s.keys(),
        lambda s: s.values(),
        lambda s: s.items(),
        lambda s: s.copy(),
        lambda s: s == {},
        lambda s: s | {},
        lambda s: s.pop("a", None),
        lambda s: s.popitem(),
        lambda s: s.setdefault("a", 1),
        lambda s: s.update(a=1),
        lambda s: s.invalidate(),
    ]
    for outage.doing.handle in accesses:
        answer = await outage.browser.get()
        assert (answer.status, answer.set_cookie) == (503, None)
    assert await outage.do(lambda s: (s.available, repr(s))) == (
        b"(False, '<UnreadableSession: unavailable>')"
    )
    visitor = Browser(outage.app)
    assert await outage.do(dict, visitor) == b"{}"
    outage.doing.handle = lambda s: s.update(a=1)
    assert (await visitor.get()).status == 503
    await outage.end()
    assert b"cart" in await outage.do(dict)


async def test_frameworks_answer_503_by_themselves(free_port: int) -> None:
    settings = Settings(
        redis_url=f"redis://127.0.0.1:{free_port}", secret_key=KEY, session_on_outage="closed"
    )

    async def page(request: Request) -> PlainTextResponse:
        request.session["a"] = 1
        return PlainTextResponse("ok")

    async def early(socket: WebSocket) -> None:
        get_session(socket)["a"] = 1

    async def late(socket: WebSocket) -> None:
        await socket.accept()
        get_session(socket)["a"] = 1

    app = Starlette(
        routes=[Route("/", page), WebSocketRoute("/early", early), WebSocketRoute("/late", late)],
        middleware=[Middleware(SessionMiddleware, settings=settings)],
    )
    await away(settings)
    browser = Browser(app)
    answer = await browser.get()
    assert answer.status == 503
    assert answer.one("retry-after") == "2"
    assert (await browser.socket("/early")).status == 503
    plain = await browser.socket("/early", extensions={})
    assert plain.messages[-1]["type"] in {"websocket.close", "websocket.http.response.body"}
    answer = await browser.socket("/late")
    assert answer.types == ["websocket.accept", "websocket.close"]
    assert answer.messages[-1]["code"] == 1013


async def test_without_a_framework_the_middleware_answers_503(free_port: int) -> None:
    settings = Settings(
        redis_url=f"redis://127.0.0.1:{free_port}", secret_key=KEY, session_on_outage="closed"
    )
    await away(settings)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/accepted":
            await send({"type": "websocket.accept"})
        get_session(scope)["a"] = 1

    browser = Browser(SessionMiddleware(app, settings=settings))
    assert (await browser.get()).status == 503
    assert (await browser.socket("/")).status == 503
    refused = await browser.socket("/", extensions={})
    assert [m["type"] for m in refused.messages] == ["websocket.close"]
    answer = await browser.socket("/accepted")
    assert answer.messages[-1] == {
        "type": "websocket.close",
        "code": 1013,
        "reason": "try again later",
    }


async def test_redis_never_there_serves_memory_says_so_once_and_moves_over(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server() as reserved:
        reserved.stop()
        outage = Outage(reserved)
        started = time.monotonic()
        outage.doing.handle = lambda s: s.update(a=1)
        await outage.browser.get()
        assert time.monotonic() - started < 4
        assert await outage.do(lambda s: (dict(s), s.degraded)) == b"({'a': 1}, 'local')"
        warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(warnings) == 1
        await outage.end()
        assert await outage.seen_by_another_process() == b"{'a': 1}"


async def test_redis_that_hangs_costs_one_deadline_and_then_nothing(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis, redis_timeout=1)
    await outage.log_in()
    kept_redis.freeze()
    try:
        started = time.monotonic()
        assert b"cart" in await outage.do(dict)
        assert time.monotonic() - started < 1.9
        await away(outage.settings)
        started = time.monotonic()
        for number in range(20):
            await outage.do(lambda s, number=number: s.update({f"k{number}": 1}))
        assert time.monotonic() - started < 0.9
    finally:
        kept_redis.thaw()
    await back(outage.settings)
    assert b"'k19': 1" in await outage.seen_by_another_process()


async def test_what_redis_is_being_told_is_noted_before_it_answers(free_port: int) -> None:
    store = FallbackSessionStore(Settings(redis_url=f"redis://127.0.0.1:{free_port}"))
    assert await store.create(new_key(), {"a": b"1"}, max_age=HOUR) is Outcome.DONE
    (entry,) = store._known.all_waiting()
    assert not entry.tried
    # As the replay does; that it comes to an answer is not said.
    assert store._known.claim(entry)
    assert entry.tried
    store._known.release(entry)


async def test_a_full_journal_answers_503_and_keeps_what_it_took(kept_redis: RedisServer) -> None:
    outage = Outage(kept_redis)
    store = FallbackSessionStore(outage.settings, max_sessions=2)
    doing = Doing()
    app = SessionMiddleware(doing, settings=outage.settings, store=store)
    await Browser(app).get()
    await outage.begin()
    doing.handle = lambda s: s.update(a=1)
    browsers = [Browser(app) for _ in range(3)]
    assert [(await each.get()).status for each in browsers] == [200, 200, 503]
    assert "2 waiting" in repr(store)
    await outage.end()
    doing.handle = dict
    assert [(await each.get()).body for each in browsers] == [b"{'a': 1}", b"{'a': 1}", b"{}"]


async def test_a_logout_finds_room_where_no_write_does_and_one_that_does_not_is_not_done(
    kept_redis: RedisServer,
) -> None:
    outage = Outage(kept_redis)
    store = FallbackSessionStore(outage.settings, max_sessions=2)
    doing = Doing()
    app = SessionMiddleware(doing, settings=outage.settings, store=store)
    browsers = [Browser(app) for _ in range(5)]
    doing.handle = lambda s: s.update(a=1)
    for each in browsers[:3]:
        await each.get()
    cookies = [dict(each.cookies) for each in browsers]
    await outage.begin()
    assert [(await each.get()).status for each in browsers[3:]] == [200, 200]
    doing.handle = Session.invalidate
    # Who has no copy is known by the cookie; the third is one too many.
    assert [(await each.get()).status for each in browsers[:3]] == [200, 200, 503]
    await outage.end()
    doing.handle = dict
    bodies = [(await Browser(app, kept).get()).body for kept in cookies[:3]]
    assert bodies == [b"{}", b"{}", b"{'a': 1}"]


async def test_what_waits_at_shutdown_is_written_or_told(
    kept_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(kept_redis)
    await outage.log_in()
    await outage.begin()
    await outage.do(lambda s: s.update(a=1))
    await outage.store.flush()
    assert "1 session has changes that Redis never heard" in caplog.text
    await outage.do(lambda s: s.update(a=1), Browser(outage.app))
    await outage.store.flush()
    assert "2 sessions have changes that Redis never heard" in caplog.text
    await outage.end()
    await outage.store.flush()


async def test_a_note_made_while_redis_came_back_is_written_at_once(
    kept_redis: RedisServer,
) -> None:
    # The look at the link and the note in the journal are two moments; what lies between them is
    # made here by noting it while the link is up.
    settings = settings_for(kept_redis)
    store, key, other = FallbackSessionStore(settings), new_key(), new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    found = await store.load(key)
    assert isinstance(found, Record)
    for reading in (True, False):
        store._known._journal.save(key, found, Change({"b": b"2"}), 0.0, time.time())
        if reading:
            assert isinstance(await store.load(key), Record)
        else:
            assert await store.save(key, Change({"c": b"3"})) is Outcome.DONE
        assert store.waiting == 0
    store._known._journal.delete(key.id_hash)
    await store._write_if_back(key.id_hash)
    assert await store.load(key) is Missing.ABSENT
    store._known._journal.create(other, found, 0.0)
    await store.delete(other.id_hash)
    assert store.waiting == 0
    store._known._journal.create(new_key(), found, 0.0)
    await store.flush()
    assert store.waiting == 0


async def test_a_birth_whose_answer_was_lost_keeps_what_the_outage_did_to_it(
    kept_redis: RedisServer,
) -> None:
    settings = settings_for(kept_redis)
    store, key, other = FallbackSessionStore(settings), new_key(), new_key()
    seen_elsewhere = RedisSessionStore(settings)
    for each in (key, other):
        # Applied, and the answer never came: Redis has it, and this process does not know.
        await seen_elsewhere.create(each, {"a": b"1", "b": b"1"}, max_age=HOUR)
    kept_redis.kill()
    await away(settings)
    for each in (key, other):
        assert await store.create(each, {"a": b"1", "b": b"1"}, max_age=HOUR) is Outcome.DONE
        assert await store.save(each, Change({"a": b"2"}, ("b",))) is Outcome.DONE
    new = new_secret(key)
    rotation = Rotation(new.secret_hash, max_age=HOUR)
    assert await store.save(key, Change({"c": b"3"}, rotation=rotation)) is Outcome.DONE
    kept_redis.start()
    await back(settings)
    for each, fields in ((new, {"a": b"2", "c": b"3"}), (other, {"a": b"2"})):
        found = await seen_elsewhere.load(each)
        assert isinstance(found, Record)
        assert dict(found.fields) == fields
    assert await seen_elsewhere.load(key) is Missing.SUPERSEDED


class _Watched:
    """A recovery that looks at the store before each call, and answers every script alike."""

    def __init__(self, look: Callable[[], object], answer: int = 1) -> None:
        self._look = look
        self._answer = answer

    def execute(self, *args: Any) -> Any:
        return self.run(args, (), ())

    def pipeline(self, commands: Any) -> list[Any]:
        return [self.execute(*command) for command in commands]

    def run(self, script: Any, keys: Any, args: Any) -> Any:
        if getattr(script, "name", "") != "session_attend":
            self._look()
        return self._answer


async def test_what_is_replayed_already_is_served_until_redis_is_asked(
    kept_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_BATCH", 1)
    settings = settings_for(kept_redis)
    store, changed, born = FallbackSessionStore(settings), new_key(), new_key()
    await store.create(changed, {"a": b"1"}, max_age=HOUR)
    kept_redis.kill()
    await away(settings)
    await store.save(changed, Change({"a": b"2"}))
    await store.create(born, {"a": b"1"}, max_age=HOUR)
    seen: list[tuple[int, Record | Missing]] = []
    store.replay(_Watched(lambda: seen.append((store.waiting, store._known.load(changed, 0.0)))))
    assert [waiting for waiting, _ in seen] == [2, 1]
    for _, found in seen:
        assert isinstance(found, Record)
        assert found.fields["a"] == b"2"
    # Other recoveries may take their time after ours.
    assert isinstance(await store.load(changed), Record)
    kept_redis.start()
    await back(settings)
    await until(lambda: not store._recovery.replayed)
    kept_redis.kill()
    await away(settings)
    # Others may have changed it while nobody could see it: the next outage does not show it.
    with pytest.raises(SessionUnavailable):
        await store.load(changed)


async def test_what_had_ended_before_the_replay_is_not_served(kept_redis: RedisServer) -> None:
    settings = settings_for(kept_redis)
    store, key = FallbackSessionStore(settings), new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    kept_redis.kill()
    await away(settings)
    await store.save(key, Change({"a": b"2"}))
    store.replay(_Watched(bool, answer=-1))
    with pytest.raises(SessionUnavailable):
        await store.load(key)


async def test_who_logs_out_while_a_change_is_replayed_is_not_served_again(
    kept_redis: RedisServer,
) -> None:
    settings = settings_for(kept_redis)
    store, key, renewed = FallbackSessionStore(settings), new_key(), new_key()
    for each in (key, renewed):
        await store.create(each, {"a": b"1"}, max_age=HOUR)
    kept_redis.kill()
    await away(settings)
    for each in (key, renewed):
        await store.save(each, Change({"a": b"2"}))
    newer = new_secret(renewed)

    moments = iter([True])

    def meanwhile() -> None:
        # Between the script of the change and its answer.
        if next(moments, False):
            store._known._journal.delete(key.id_hash)
            change = Change(rotation=Rotation(newer.secret_hash))
            store._known._journal.save(renewed, None, change, 0.0, time.time())

    store.replay(_Watched(meanwhile))
    for each in (key, renewed):
        with pytest.raises(SessionUnavailable):
            await store.load(each)
    assert isinstance(await store.load(newer), Record)


async def test_what_is_written_while_redis_is_there_makes_no_copy(kept_redis: RedisServer) -> None:
    settings = settings_for(kept_redis)
    store, key = FallbackSessionStore(settings), new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    found = await store.load(key)
    assert isinstance(found, Record)
    store._known._journal.save(key, found, Change({"b": b"2"}), 0.0, time.time())
    store._known.outdate(key.id_hash)
    await store.flush()
    # Another process may have ended it at once.
    await RedisSessionStore(settings).delete(key.id_hash)
    kept_redis.kill()
    await away(settings)
    with pytest.raises(SessionUnavailable):
        await store.load(key)


async def test_what_waited_is_not_written_over_what_is_newer(kept_redis: RedisServer) -> None:
    store, key = FallbackSessionStore(settings_for(kept_redis)), new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    found = await store.load(key)
    assert isinstance(found, Record)
    store._known._journal.save(key, found, Change({"a": b"2"}), 0.0, time.time())
    listed = store._known.all_waiting()
    # Between the list and its turn, a request writes what waited, and then something newer.
    assert await store.save(key, Change({"a": b"3"})) is Outcome.DONE
    by_link = ByLink(store.link)
    assert list(store._replay.write_all(listed, by_link)) == []
    found = await store.load(key)
    assert isinstance(found, Record)
    assert found.fields["a"] == b"3"
    # Nor while a request is at it.
    store._known._journal.save(key, found, Change({"a": b"4"}), 0.0, time.time())
    store._known._being_written.add(key.id_hash)
    assert list(store._replay.write_all(store._known.all_waiting(), by_link)) == []
    store._known._being_written.discard(key.id_hash)
    await store.flush()
    assert store.waiting == 0


async def test_two_requests_write_what_waits_once(kept_redis: RedisServer) -> None:
    store, key = FallbackSessionStore(settings_for(kept_redis)), new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    found = await store.load(key)
    assert isinstance(found, Record)
    store._known._journal.save(key, found, Change({"b": b"2"}), 0.0, time.time())
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(store.load, key)
    assert store.waiting == 0
    store._known._journal.save(key, found, Change({"b": b"2"}), 0.0, time.time())
    store._known._being_written.add(key.id_hash)
    # Somebody else's turn takes too long: what waits is shown, and still waits.
    found = await store.load(key)
    assert isinstance(found, Record)
    assert found.fields["b"] == b"2"
    assert store.waiting == 1
    store._known._being_written.discard(key.id_hash)
    await store.flush()
    assert store.waiting == 0


async def test_what_redis_refuses_is_told_and_dropped(
    kept_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(kept_redis)
    store, key, other = FallbackSessionStore(settings), new_key(), new_key()
    for each in (key, other):
        await store.create(each, {"a": b"1"}, max_age=HOUR)
        await store.load(each)
    kept_redis.execute("SET", f"session:{other.id_hash}", "garbage")
    found = Record({"a": b"1"}, time.time(), time.time() + 9, time.time(), time.time())
    store._known._journal.save(other, found, Change({"b": b"2"}), 0.0, time.time())
    with contextlib.suppress(Exception):
        await store.load(other)
    kept_redis.kill()
    await away(settings)
    assert await store.save(key, Change({"b": b"2"})) is Outcome.DONE
    kept_redis.start()
    kept_redis.execute("SET", f"session:{key.id_hash}", "garbage")
    await back(settings)
    assert store.waiting == 0
    assert caplog.text.count("refused a session change") == 2


async def test_a_copy_follows_what_this_process_did(kept_redis: RedisServer) -> None:
    settings = settings_for(kept_redis)
    store, key, gone = FallbackSessionStore(settings), new_key(), new_key()
    for each in (key, gone):
        await store.create(each, {"a": b"1"}, max_age=HOUR)
    new = new_secret(key)
    rotation = Rotation(new.secret_hash, max_age=60)
    await store.save(key, Change({"b": b"2"}, rotation=rotation))
    await store.delete(gone.id_hash)
    kept_redis.kill()
    await away(settings)
    found = await store.load(new)
    assert isinstance(found, Record)
    assert dict(found.fields) == {"a": b"1", "b": b"2"}
    assert found.expires_at == pytest.approx(time.time() + 60, abs=5)
    assert found.degraded == "stale"
    for unknown in (key, gone):
        with pytest.raises(SessionUnavailable):
            await store.load(unknown)


async def test_a_load_on_its_way_does_not_bring_back_what_is_logged_out(
    kept_redis: RedisServer,
) -> None:
    settings = settings_for(kept_redis)
    store, gone, emptied = FallbackSessionStore(settings), new_key(), new_key()
    for key in (gone, emptied):
        await store.create(key, {"a": b"1"}, max_age=HOUR)
        asked = store._known.asked
        found = await store.load(key)
        if key is gone:
            await store.delete(key.id_hash)
        else:
            await store.save(key, Change(removed=("a",)))
        # The answer of before, come late.
        store._known.remember(key, found, asked)
    kept_redis.kill()
    await away(settings)
    for key in (gone, emptied):
        with pytest.raises(SessionUnavailable):
            await store.load(key)


@pytest.mark.parametrize("encryption", [(), ("a key of more than sixteen characters",)])
async def test_activity_before_the_outage_counts_in_it(
    kept_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, encryption: tuple[str, ...]
) -> None:
    outage = Outage(kept_redis, session_idle_timeout=100, session_encryption_key=encryption)
    await outage.log_in()
    age(kept_redis, outage.settings.key_prefix, 60)
    assert b"user_id" in await outage.do(dict)
    await outage.begin()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 60)
    assert b"user_id" in await outage.do(dict)


async def test_a_copy_of_long_ago_is_not_served(
    kept_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(kept_redis)
    store, key = FallbackSessionStore(settings), new_key()
    await store.create(key, {"a": b"1"}, max_age=HOUR)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1000)
    kept_redis.kill()
    await away(settings)
    with pytest.raises(SessionUnavailable):
        await store.load(key)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_replay_what_its_parent_promised(free_port: int) -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port}")

    async def promise() -> FallbackSessionStore:
        store = FallbackSessionStore(settings)
        await store.create(new_key(), {"a": b"1"}, max_age=HOUR)
        return store

    store = anyio.run(promise)
    assert store.waiting == 1
    child = os.fork()
    if child == 0:
        os._exit(store.waiting)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.waiting == 1


@pytest.mark.slow
async def test_the_request_that_meets_the_outage_keeps_what_it_did(kept_redis: RedisServer) -> None:
    outage = Outage(kept_redis, session_idle_timeout=1000, session_touch_interval=0)
    await outage.log_in()
    leaving, visitor, reader = (Browser(outage.app) for _ in range(3))
    outage.doing.handle = lambda s: s.update(a=1)
    for browser in (leaving, reader):
        await browser.get()

    def last_of_redis(handle: Any) -> Any:
        def run(session: Session) -> Any:
            # The link does not know yet: the store's own answer is the first it hears.
            if kept_redis_alive:
                kept_redis_alive.clear()
                kept_redis.kill()
            return handle(session)

        return run

    for browser, handle in (
        (outage.browser, lambda s: s.update(b=2)),
        (visitor, lambda s: s.update(c=3)),
        (leaving, Session.invalidate),
        (reader, dict),
    ):
        kept_redis_alive = [True]
        outage.doing.handle = last_of_redis(handle)
        assert (await browser.get()).status == 200
        await away(outage.settings)
        assert await outage.do(dict, leaving if browser is leaving else browser) is not None
        await outage.end()
    assert await outage.do(dict) == b"{'b': 2, 'cart': [1], 'user_id': 7}"
    assert await outage.do(dict, visitor) == b"{'c': 3}"
    assert await outage.do(dict, leaving) == b"{}"
    assert await outage.do(dict, reader) == b"{'a': 1}"


@pytest.mark.parametrize("mode", ["readonly", "closed"])
async def test_the_write_that_meets_the_outage_is_refused_where_nothing_is_kept(
    kept_redis: RedisServer, mode: str
) -> None:
    outage = Outage(kept_redis, session_on_outage=mode)
    await outage.log_in()

    def killing(session: Session) -> None:
        session["b"] = 2
        kept_redis.kill()

    outage.doing.handle = killing
    answer = await outage.browser.get()
    assert (answer.status, answer.set_cookie) == (503, None)
    await away(outage.settings)
    await outage.end()
    assert b"'b'" not in await outage.do(dict)
    visitor = Browser(outage.app)
    outage.doing.handle = killing
    assert (await visitor.get()).status == 503


async def test_a_stream_whose_redis_dies_says_what_it_lost(
    kept_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(kept_redis, session_on_outage="readonly")
    await outage.log_in()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        session = get_session(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        session["late"] = 1
        kept_redis.kill()
        await send({"type": "http.response.body", "body": b""})

    app = SessionMiddleware(stream, settings=outage.settings)
    answer = await Browser(app, outage.browser.cookies).get()
    assert answer.status == 200
    assert "written after the response had started is lost" in caplog.text


async def test_a_logout_that_meets_the_outage_before_a_crash_is_told(
    kept_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(kept_redis, session_on_outage="readonly")
    await outage.log_in()

    def crash(session: Session) -> None:
        session.invalidate()
        kept_redis.kill()
        raise LookupError

    outage.doing.handle = crash
    with pytest.raises(LookupError):
        await outage.browser.get()
    assert "may live on" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_sessions_work_on_both_sides_of_a_fork(redis: RedisServer, key_prefix: str) -> None:
    settings = settings_for(redis, key_prefix=key_prefix)
    doing = Doing()
    app = SessionMiddleware(doing, settings=settings)
    browser = Browser(app)

    def ask(handle: Any) -> bytes:
        async def run() -> bytes:
            doing.handle = handle
            return (await browser.get()).body

        return anyio.run(run)

    ask(lambda s: s.update(parent=1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ask(lambda s: s.update(child=1))
            code = 0 if b"child" in ask(dict) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ask(dict) == b"{'child': 1, 'parent': 1}"
