"""What our Django engine promises beyond Django's own tests. ``test_django.py`` runs it.

``python -m tests.frameworks.django_cases`` is a process of its own, because one has one Django.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import time
import unittest
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.conf import settings

KEY, OLD_KEY = "a new key of more than sixteen", "an old key of more than sixteen"
settings.configure(
    SECRET_KEY=KEY,
    SECRET_KEY_FALLBACKS=[OLD_KEY],
    INSTALLED_APPS=["django.contrib.sessions", "holdfast.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    MIDDLEWARE=["holdfast.django.SessionMiddleware"],
    SESSION_ENGINE="holdfast.django",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["testserver"],
    USE_TZ=True,
)
django.setup()

from django.contrib.sessions.backends.base import CreateError, UpdateError  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore  # noqa: E402
from django.contrib.sessions.exceptions import SessionInterrupted  # noqa: E402
from django.contrib.sessions.models import Session  # noqa: E402
from django.core import checks  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.db import connection  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.test import Client, SimpleTestCase, override_settings  # noqa: E402
from django.urls import path  # noqa: E402
from itsdangerous import TimestampSigner  # noqa: E402
from starlette.testclient import TestClient as ASGIClient  # noqa: E402
from werkzeug.test import Client as WSGIClient  # noqa: E402

from holdfast import (  # noqa: E402
    SessionTooLarge,
    Settings,
    SyncRunPublisher,
    SyncSessionIndex,
    on_session_event,
)
from holdfast.django import SessionMiddleware, SessionStore  # noqa: E402
from holdfast.frameworks.django import engine  # noqa: E402
from holdfast.sessions.cookie import CookieSigner, Credential, new_credential  # noqa: E402
from holdfast.sessions.store import Change, Record, Rotation  # noqa: E402
from holdfast.sessions.stores.sync import driven  # noqa: E402
from holdfast.testing import FaultyStore, FrozenClock  # noqa: E402
from holdfast.wrapping.around import around_asgi, around_wsgi, bridged  # noqa: E402
from holdfast.wrapping.located import sessions_inside  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from werkzeug.test import TestResponse


def count(request: HttpRequest) -> JsonResponse:
    request.session["seen"] = request.session.get("seen", 0) + 1
    return JsonResponse({"seen": request.session["seen"]})


def put(request: HttpRequest) -> HttpResponse:
    for key, value in request.GET.items():
        request.session[key] = value
    return HttpResponse()


def cycle(request: HttpRequest) -> HttpResponse:
    request.session.cycle_key()
    return put(request)


def flush(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse()


def save(request: HttpRequest) -> HttpResponse:
    put(request)
    request.session.save()
    return HttpResponse()


def elsewhere(request: HttpRequest) -> JsonResponse:
    answer = show(request)
    SessionStore(request.session.session_key).cycle_key()
    return answer


def show(request: HttpRequest) -> JsonResponse:
    return JsonResponse(dict(request.session.items()))


def silent(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def fail(request: HttpRequest) -> HttpResponse:
    request.session["seen"] = "never"
    raise ValueError("of a view")


async def remembering(connection: Any, run_id: str, action: str) -> bool:
    connection.session["asked"] = f"{action} {run_id}"
    return True


urlpatterns = [
    path("count", count),
    path("set", put),
    path("cycle", cycle),
    path("flush", flush),
    path("save", save),
    path("elsewhere", elsewhere),
    path("show", show),
    path("silent", silent),
    path("fail", fail),
]


def asked(at: str, *cookies: str) -> TestResponse:
    """Return the answer to a request with *cookies*, in this order, all of the session's name."""
    header = "; ".join(f"sessionid={each}" for each in cookies)
    return WSGIClient(WSGIHandler(), use_cookies=False).get(at, headers={"cookie": header})


def given(answer: TestResponse) -> str:
    """Return the session's cookie that an answer sets."""
    return SimpleCookie(answer.headers["set-cookie"])["sessionid"].value


@contextmanager
def faults(store: FaultyStore) -> Iterator[None]:
    """Have sessions kept by *store*."""
    door = engine().door
    before, door.setup = door.setup, replace(door.setup, store=store)
    try:
        yield
    finally:
        door.setup = before


def stored(**data: Any) -> SessionStore:
    """Return a session that is in the store."""
    session = SessionStore()
    session.update(data)
    session.save()
    return session


def again(session: SessionStore) -> SessionStore:
    """Return the same session as another request has it."""
    return SessionStore(session.session_key)


class Sessions(SimpleTestCase):  # type: ignore[misc]
    def test_two_requests_at_once_keep_what_each_of_them_changed(self) -> None:
        first = stored(a=1, b=1)
        second = again(first)
        assert second["a"] == 1
        first["a"] = 2
        first.save()
        second["b"] = 2
        second["c"] = [3]
        second.save()
        assert dict(again(first).items()) == {"a": 2, "b": 2, "c": [3]}

    def test_a_new_key_keeps_the_data_and_kills_the_old_one(self) -> None:
        session = stored(cart=3)
        old, name = session.session_key, session.id_hash
        session["user"] = "ada"
        session.cycle_key()
        assert session.session_key != old
        assert session.id_hash == name
        assert dict(again(session).items()) == {"cart": 3, "user": "ada"}
        late = SessionStore(old)
        late["cart"] = 9
        with pytest.raises(UpdateError):
            late.save()
        # The browser has the newer cookie by now: this one is not told to drop it.
        assert late.session_key == old
        assert again(session)["cart"] == 3

    def test_a_key_that_was_replaced_ends_nothing(self) -> None:
        session = stored(cart=3)
        old = session.session_key
        session.cycle_key()
        for ended in (SessionStore(old).flush, lambda: SessionStore().delete(old)):
            ended()
            assert again(session)["cart"] == 3
        again(session).flush()
        assert not session.exists(session.session_key)

    def test_a_session_that_cannot_be_seen_is_ended_all_the_same(self) -> None:
        session = stored(cart=3)
        store = FaultyStore(engine().setup.store)
        with faults(store):
            store.fail("load")
            again(session).flush()
        assert not session.exists(session.session_key)

    def test_what_was_ended_stays_ended(self) -> None:
        session = stored(a=1)
        parallel = again(session)
        assert parallel["a"] == 1
        session.flush()
        parallel["a"] = 2
        with pytest.raises(UpdateError):
            parallel.save()
        gone = again(parallel)
        assert dict(gone.items()) == {}
        assert gone.session_key is None
        assert not session.exists(parallel.session_key)

    def test_a_login_over_an_ended_session_begins_another(self) -> None:
        session = stored(cart=1)
        assert session["cart"] == 1
        parallel = again(session)
        assert parallel["cart"] == 1
        session.flush()
        parallel.cycle_key()
        parallel.save()
        assert again(parallel)["cart"] == 1

    def test_a_new_key_does_not_bring_a_logged_out_user_back(self) -> None:
        session = stored(_auth_user_id="7")
        parallel = again(session)
        assert parallel["_auth_user_id"] == "7"
        session.flush()
        with pytest.raises(SessionInterrupted):
            parallel.cycle_key()
        assert SyncSessionIndex().list("7") == []

    def test_two_requests_that_give_a_new_key_at_once_both_go_on(self) -> None:
        session = stored(_auth_user_id="7")
        parallel = again(session)
        assert parallel["_auth_user_id"] == "7"
        session.cycle_key()
        parallel.cycle_key()
        assert again(session)["_auth_user_id"] == again(parallel)["_auth_user_id"] == "7"
        session.flush()
        parallel.flush()

    def test_cleared_without_being_read_it_is_cleared(self) -> None:
        session = stored(a=1, b=2)
        other = again(session)
        other.clear()
        other["c"] = 3
        other.save()
        assert dict(again(session).items()) == {"c": 3}

    def test_emptied_and_written_to_again_it_begins_anew(self) -> None:
        session = stored(a=1)
        del session["a"]
        session.save()
        session["b"] = 2
        session.save()
        assert dict(again(session).items()) == {"b": 2}

    def test_changed_in_place_it_is_saved(self) -> None:
        session = again(stored(cart=["tea"]))
        session["cart"].append("milk")
        session.save()
        assert again(session)["cart"] == ["tea", "milk"]

    def test_a_key_that_we_did_not_sign_names_nothing(self) -> None:
        foreign = CookieSigner(["another key of more than sixteen"]).sign(new_credential())
        for key in (foreign, "someunknownkey", "é" * 40, "x" * 500):
            session = SessionStore(key)
            assert dict(session.items()) == {}
            assert session.session_key is None
            assert not session.exists(key)
            session = SessionStore(key)
            session._session_cache = {"a": 1}
            with pytest.raises(UpdateError):
                session.save()
            with pytest.raises(CreateError):
                session.save(must_create=True)
            session.delete(key)

    def test_a_key_signed_by_a_fallback_is_signed_anew(self) -> None:
        session = stored(a=1)
        presented = engine().setup.signer.verify(session.session_key.encode())
        assert presented is not None
        old = CookieSigner([OLD_KEY]).sign(presented.credential)
        late = SessionStore(old)
        late["a"] = 2
        late.save()
        assert late.session_key == session.session_key
        assert again(session)["a"] == 2

    def test_an_id_is_taken_once(self) -> None:
        session = stored(a=1)
        sign = engine().setup.signer.sign
        other = SessionStore(sign(Credential("x" * 24, "y" * 32)))
        other.save(must_create=True)
        twin = SessionStore(sign(Credential("x" * 24, "z" * 32)))
        with pytest.raises(CreateError):
            twin.save(must_create=True)
        other.delete()
        assert session["a"] == 1

    def test_it_ends_when_django_says(self) -> None:
        session = stored(a=1)
        session.set_expiry(1)
        session.save()
        assert again(session)["a"] == 1
        deadline = time.monotonic() + 20
        while again(session).get("a") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert again(session).get("a") is None
        past = stored(a=1)
        past.set_expiry(-1)
        past.save()
        assert not past.exists(past.session_key)

    def test_each_save_moves_its_end(self) -> None:
        session = stored(a=1)
        presented = engine().setup.signer.verify(session.session_key.encode())
        assert presented is not None
        for a in (2, 3):
            before = time.time()
            session["a"] = a
            session.save()
            record = driven(engine().setup.store.load(presented.credential.key))
            assert isinstance(record, Record)
            assert record.seen_at >= before - 0.002  # Redis counts milliseconds
            time.sleep(0.01)

    def test_a_value_that_is_no_json_names_its_key(self) -> None:
        session = SessionStore()
        session["when"] = datetime.now(UTC)
        with pytest.raises(TypeError, match=r"session\['when'\]"):
            session.save()

    def test_too_large_a_session_is_refused(self) -> None:
        session = stored(a=1)
        session["big"] = "x" * 70_000
        with pytest.raises(SessionTooLarge, match="HOLDFAST_SESSION_MAX_BYTES"):
            session.save()
        assert dict(again(session).items()) == {"a": 1}

    def test_its_events_are_told_and_its_user_is_known(self) -> None:
        told: list[str] = []
        stop = on_session_event(lambda event: told.append(f"{event.name} {event.user}"))
        try:
            session = stored(cart=1)
            session["_auth_user_id"] = "7"
            session.cycle_key()
            session.flush()
        finally:
            stop()
        assert told == ["created None", "rotated 7", "destroyed 7"]

    def test_a_cookie_that_opens_nothing_is_told(self) -> None:
        told: list[str] = []
        stop = on_session_event(
            lambda event: told.append(f"{event.name} {getattr(event, 'reason', '')}")
        )
        session, brief = stored(_auth_user_id="7"), stored(a=1)
        parallel = again(session)
        try:
            for key in (None, "forged by a visitor", session.session_key):
                SessionStore(key).get("a")
            assert parallel.get("_auth_user_id") == "7"
            session.flush()
            parallel["a"] = 1
            with pytest.raises(UpdateError):
                parallel.save()
            again(parallel).get("a")
            with override_settings(SESSION_COOKIE_AGE=-1):
                again(brief).get("a")
        finally:
            stop()
        assert told[2:] == [
            "refused forged cookie",
            "destroyed invalidated",
            "refused ended",
            "unknown ",
            "expired ",
        ]

    def test_another_key_of_the_same_user_is_on_the_list(self) -> None:
        index = SyncSessionIndex()
        one, two = stored(_auth_user_id="8"), stored(_auth_user_id="8")
        assert {each.id_hash for each in index.list("8")} == {one.id_hash, two.id_hash}
        assert index.revoke_all("8", keep=two.id_hash) == 1
        assert dict(again(one).items()) == {}
        two["_auth_user_id"] = "9"
        two.save()
        assert index.list("8") == []
        two.flush()
        assert two.id_hash is None

    async def test_the_asynchronous_api(self) -> None:
        session = SessionStore()
        await session.aset("a", 1)
        await session.asave()
        old = session.session_key
        await session.acycle_key()
        assert session.session_key != old
        other = SessionStore(session.session_key)
        assert await other.aget("a") == 1
        await other.aflush()
        assert not await session.aexists(session.session_key)
        await SessionStore.aclear_expired()

    def test_corrupt_data_reads_as_absent(self) -> None:
        session = stored(a=1)
        presented = engine().setup.signer.verify(session.session_key.encode())
        assert presented is not None
        broken = Change({"a": b"{no json"})
        driven(engine().setup.store.save(presented.credential.key, broken))
        with self.assertLogs("holdfast.sessions", "ERROR") as logs:
            assert dict(again(session).items()) == {}
        assert "corrupt" in logs.output[0]


class Requests(SimpleTestCase):  # type: ignore[misc]
    def test_a_visitor_is_counted_and_the_cookie_is_the_key(self) -> None:
        client = Client()
        assert [client.get("/count").json()["seen"] for _ in range(3)] == [1, 2, 3]
        assert client.session.session_key == client.cookies["sessionid"].value
        assert client.get("/count")["Vary"] == "Cookie"

    def test_of_two_cookies_of_its_name_the_one_that_is_ours_is_read(self) -> None:
        ours = stored(seen=7).session_key
        for seen, cookies in ((8, (ours, "anothers")), (9, ("anothers", ours))):
            assert "set-cookie" not in asked("/show", *cookies).headers
            answer = asked("/count", *cookies)
            assert answer.json == {"seen": seen}
            assert given(answer) == ours

    def test_of_two_cookies_that_are_both_ours_none_is_believed_or_removed(self) -> None:
        ada, eve = (stored(user_id=name).session_key for name in ("ada", "eve"))
        for cookies in ((ada, eve), (eve, ada)):
            with self.assertLogs("holdfast.sessions", "WARNING") as logs:
                answer = asked("/show", *cookies)
            assert answer.json == {}
            assert "set-cookie" not in answer.headers
            assert "two different session cookies" in logs.output[0]
        assert asked("/show", ada).json == {"user_id": "ada"}

    def test_who_logs_in_by_the_key_alone_has_a_new_cookie(self) -> None:
        told: list[str] = []
        stop = on_session_event(
            lambda event: told.append(f"{event.name} {getattr(event, 'reason', '')}")
        )
        try:
            old = stored(cart="tea").session_key
            new = given(asked("/set?user_id=ada", old))
            assert asked("/show", old).json == {}
            assert asked("/show", new).json == {"cart": "tea", "user_id": "ada"}
            assert given(asked("/set?user_id=ada&cart=milk", new)) == new
            # Also where the view has stored it before.
            old = stored(cart="tea").session_key
            saved = given(asked("/save?user_id=eve", old))
            assert asked("/show", old).json == {}
            assert asked("/show", saved).json == {"cart": "tea", "user_id": "eve"}
            # Django's own login() has seen to it.
            asked("/cycle?user_id=eve", stored(cart="tea").session_key)
        finally:
            stop()
        login = ["created ", "rotated user changed"]
        assert told == [*login, *login, "created ", "rotated regenerated"]

    def test_whose_cookie_is_older_than_his_browsers_begins_and_removes_nothing(self) -> None:
        session = stored(cart="tea")
        old = session.session_key
        session.cycle_key()
        assert "set-cookie" not in asked("/flush", old).headers
        foreign = CookieSigner(["another key of more than sixteen"]).sign(new_credential())
        with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
            for at, cookie in itertools.product(("/show", "/silent"), (old, foreign)):
                answer = asked(at, cookie)
                assert answer.status_code == 200
                assert "set-cookie" not in answer.headers
        with self.assertLogs("django", "WARNING"):
            assert asked("/set?user_id=eve", old).status_code == 400
        assert dict(again(session).items()) == {"cart": "tea"}

    def test_a_cookie_by_a_key_that_is_not_known_here_stays(self) -> None:
        foreign = CookieSigner(["another key of more than sixteen"]).sign(new_credential())
        assert "set-cookie" not in asked("/show", foreign).headers
        assert given(asked("/set?a=1", foreign)) != foreign
        assert given(asked("/flush", stored(a=1).session_key)) == ""

    def test_a_page_that_only_looks_has_the_cookie_signed_by_the_present_key_once(self) -> None:
        session = stored(a=1)
        presented = engine().setup.signer.verify(session.session_key.encode())
        assert presented is not None
        old = CookieSigner([OLD_KEY]).sign(presented.credential)
        # Redis goes by its own clock.
        later = 0 if "HOLDFAST_REDIS_URL" in os.environ else 100
        with FrozenClock(time.time() + later), override_settings(SESSION_COOKIE_SECURE=True):
            answer = asked("/show", old)
        assert given(answer) == session.session_key
        cookie = SimpleCookie(answer.headers["set-cookie"])["sessionid"]
        assert cookie["secure"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        assert 1209500 < int(cookie["max-age"]) + later <= 1209600, "it ends with its session"
        for at in ("/show", "/silent"):
            assert "set-cookie" not in asked(at, given(answer)).headers
        assert "set-cookie" not in asked("/silent", old).headers
        with override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True):
            assert "Max-Age" not in asked("/show", old).headers["set-cookie"]
        assert given(asked("/flush", old)) == ""

    def test_a_login_during_a_page_is_not_undone_by_signing_the_cookie_anew(self) -> None:
        session = stored(a=1)
        presented = engine().setup.signer.verify(session.session_key.encode())
        assert presented is not None
        old = CookieSigner([OLD_KEY]).sign(presented.credential)
        answer = asked("/elsewhere", old)
        assert answer.json == {"a": 1}
        assert "set-cookie" not in answer.headers

    def test_while_no_store_answers_no_cookie_is_signed_anew(self) -> None:
        session = stored(a=1)
        presented = engine().setup.signer.verify(session.session_key.encode())
        assert presented is not None
        store, looked = (
            FaultyStore(engine().setup.store),
            SessionStore(CookieSigner([OLD_KEY]).sign(presented.credential)),
        )
        with faults(store):
            looked.load()
            assert looked.signed_before is not None
            assert looked.is_newest(presented)
            store.fail("load")
            assert not looked.is_newest(presented)

    def test_who_was_given_a_newer_secret_elsewhere_is_not_given_the_old_one(self) -> None:
        session = stored(a=1)
        presented = engine().setup.signer.verify(session.session_key.encode())
        assert presented is not None
        newer = presented.credential.rotated()
        by_age = Change(rotation=Rotation(newer.key.secret_hash, grace=30))
        driven(engine().setup.store.save(presented.credential.key, by_age))
        for key in (KEY, OLD_KEY):
            old = CookieSigner([key]).sign(presented.credential)
            for at in ("/show", "/set?b=1"):
                answer = asked(at, old)
                assert (answer.json or {}).get("a", 1) == 1
                assert "set-cookie" not in answer.headers
        new = engine().setup.signer.sign(newer)
        assert asked("/show", new).json == {"a": 1, "b": "1"}
        assert given(asked("/set?b=2", new)) == new
        assert given(asked("/flush", session.session_key)) == ""

    def test_a_cookie_whose_data_cannot_be_read_stays(self) -> None:
        session = stored(a=1)
        presented = engine().setup.signer.verify(session.session_key.encode())
        assert presented is not None
        broken = Change({"a": b"{no json"})
        driven(engine().setup.store.save(presented.credential.key, broken))
        with self.assertLogs("holdfast.sessions", "ERROR"):
            answer = asked("/show", session.session_key)
        assert answer.json == {}
        assert "set-cookie" not in answer.headers

    def test_a_header_that_a_test_gives_is_any_text(self) -> None:
        assert Client().get("/count", HTTP_USER_AGENT="日本").json() == {"seen": 1}

    def test_a_capture_around_django_knows_its_sessions(self) -> None:
        handler = WSGIHandler()
        assert sessions_inside(handler) == (engine().door, "sessionid")
        with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"):
            assert sessions_inside(handler) is None

    def test_streams_beside_django_are_read_with_its_sessions(self) -> None:
        own = Settings(stream_access="session", stream_wait=0, secret_key=KEY)
        ada = stored(_auth_user_id="7").session_key
        SyncRunPublisher("hers", owner="user:7", settings=own).emit("t")
        SyncRunPublisher("his", owner="user:8", settings=own).emit("t")
        clients: dict[str, Any] = {
            "wsgi": WSGIClient(around_wsgi(WSGIHandler(), own), use_cookies=False),
            "bridged": ASGIClient(bridged(WSGIHandler(), own)),
            "asgi": ASGIClient(around_asgi(ASGIHandler(), own)),
        }
        for name, client in clients.items():
            with self.subTest(name):
                for run_id, cookie, status in (
                    ("hers", f"sessionid={ada}", 200),
                    ("his", f"sessionid={ada}", 403),
                    ("hers", f"session={ada}", 401),
                    ("hers", "sessionid=forged", 401),
                ):
                    at, headers = f"/streams/runs/{run_id}/events", {"cookie": cookie}
                    assert client.get(at, headers=headers).status_code == status
        with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"):
            other = WSGIClient(around_wsgi(WSGIHandler(), own), use_cookies=False)
            headers = {"cookie": f"sessionid={ada}"}
            assert other.get("/streams/runs/hers/events", headers=headers).status_code == 401

    def test_streams_leave_the_cookie_to_django(self) -> None:
        own = Settings(stream_access="session", stream_wait=0, secret_key=KEY)
        SyncRunPublisher("kept", owner="user:7", settings=own).emit("t")
        with pytest.MonkeyPatch.context() as environ, override_settings(SESSION_COOKIE_AGE=60):
            environ.setenv("HOLDFAST_SESSION_ROTATE_AFTER", "1")
            # With set_expiry(0) it is to end with the browser, which only Django knows.
            session = stored(_auth_user_id="7", _session_expiry=0)
            presented = engine().setup.signer.verify(session.session_key.encode())
            assert presented is not None
            old = CookieSigner([OLD_KEY]).sign(presented.credential)
            clients: tuple[Any, ...] = (
                WSGIClient(around_wsgi(WSGIHandler(), own), use_cookies=False),
                ASGIClient(bridged(WSGIHandler(), own)),
            )
            with FrozenClock(time.time() + 10):
                for client, cookie in itertools.product(clients, (old, session.session_key)):
                    headers = {"cookie": f"sessionid={cookie}"}
                    answer = client.get("/streams/runs/kept/events", headers=headers)
                    assert answer.status_code == 200
                    assert "set-cookie" not in answer.headers
            assert engine().setup.terms.rotate_after == 1

    def test_a_cookie_given_by_who_decides_on_access_is_as_django_gives_it(self) -> None:
        # Such a callable may write to the session, and so begin one.
        access = f"{__name__}:remembering"
        own = Settings(stream_access=access, stream_wait=0, secret_key=KEY)
        SyncRunPublisher("kept", owner="user:7", settings=own).emit("t")
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            ({}, "Max-Age=1209600"),
            ({"SESSION_COOKIE_AGE": 60}, "Max-Age=60"),
            ({"SESSION_EXPIRE_AT_BROWSER_CLOSE": True}, ""),
        )
        for theirs, said in cases:
            with override_settings(**theirs, SESSION_COOKIE_SECURE=True):
                client = WSGIClient(around_wsgi(WSGIHandler(), own), use_cookies=False)
                answer = client.get("/streams/runs/kept/events")
                cookie = answer.headers["set-cookie"]
                assert "".join(re.findall(r"Max-Age=\d+", cookie)) == said
                assert cookie.startswith("sessionid=")
                assert "secure" in cookie

    def test_a_cookie_that_browsers_drop_is_told_and_stops_nothing(self) -> None:
        own = Settings(secret_key=KEY)
        with (
            override_settings(SESSION_COOKIE_SAMESITE="None"),
            self.assertLogs("holdfast", "WARNING") as logs,
        ):
            around_wsgi(WSGIHandler(), own)
        assert any("SESSION_COOKIE_SECURE" in each for each in logs.output)

    def test_the_engine_is_named_where_another_one_keeps_the_sessions(self) -> None:
        around_asgi(ASGIHandler(), own := Settings(secret_key=KEY))
        with self.assertNoLogs("holdfast", "WARNING"):
            around_asgi(ASGIHandler(), own)
        with (
            override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"),
            self.assertLogs("holdfast", "WARNING") as logs,
        ):
            around_asgi(ASGIHandler(), own)
        assert 'SESSION_ENGINE = "holdfast.django"' in logs.output[0]

    def test_nothing_is_saved_of_a_request_that_failed(self) -> None:
        client = Client(raise_request_exception=False)
        client.get("/count")
        with self.assertLogs("django.request", "ERROR"):
            assert client.get("/fail").status_code == 500
        assert client.get("/count").json() == {"seen": 2}


class Moving(SimpleTestCase):  # type: ignore[misc]
    databases = ("default",)

    def setUp(self) -> None:
        with connection.schema_editor() as editor:
            editor.create_model(Session)
        self.addCleanup(self.drop)
        self.have("django")

    def drop(self) -> None:
        if Session._meta.db_table in connection.introspection.table_names():
            with connection.schema_editor() as editor:
                editor.delete_model(Session)

    def have(self, package: str) -> None:
        os.environ["HOLDFAST_SESSION_IMPORT"] = package
        engine.cache_clear()
        self.addCleanup(engine.cache_clear)
        self.addCleanup(os.environ.pop, "HOLDFAST_SESSION_IMPORT", None)

    def from_before(self, **data: Any) -> str:
        session = DatabaseStore()
        session.update(data)
        session.save()
        return str(session.session_key)

    def test_who_is_logged_in_in_djangos_table_stays_so(self) -> None:
        before = self.from_before(_auth_user_id="7", cart=["tea"])
        answer = asked("/show", before)
        assert answer.json == {"_auth_user_id": "7", "cart": ["tea"]}
        ours = given(answer)
        assert given(asked("/show", before)) == ours, "two requests at once meet in one session"
        asked("/set?seen=1", ours)
        seen = {"_auth_user_id": "7", "cart": ["tea"], "seen": "1"}
        assert asked("/show", ours, before).json == seen
        presented = engine().setup.signer.verify(ours.encode())
        assert presented is not None
        record = driven(engine().setup.store.load(presented.credential.key))
        assert isinstance(record, Record)
        assert record.expires_at > time.time() + 300 * 86400, "as one that begins here"

    def test_who_has_logged_out_since_stays_so(self) -> None:
        before = self.from_before(_auth_user_id="7")
        ours = given(asked("/show", before))
        asked("/flush", ours)
        for cookie in (before, ours):
            assert asked("/show", cookie).json == {}
        assert Session.objects.count() == 1, "the table is only read"

    def test_of_two_cookies_that_are_both_ours_none_brings_one_from_before(self) -> None:
        before = self.from_before(_auth_user_id="7")
        ada, eve = (stored(user_id=name).session_key for name in ("ada", "eve"))
        answer = asked("/show", ada, eve, before)
        assert answer.json == {}
        assert "set-cookie" not in answer.headers

    def test_while_the_table_is_away_nobody_is_taken_for_a_stranger(self) -> None:
        before = self.from_before(_auth_user_id="7")
        self.drop()
        for at in ("/show", "/set?seen=1"):
            answer = asked(at, before)
            assert answer.status_code == 503
            assert "set-cookie" not in answer.headers
        assert asked("/silent", before).status_code == 200
        assert asked("/show").json == {}

    def test_a_session_without_a_user_that_a_cookie_carries_begins_anew(self) -> None:
        self.have("starlette")
        carried = base64.b64encode(b'{"cart": ["tea"]}')
        cookie = TimestampSigner(KEY).sign(carried).decode()
        one, two = (asked("/show", cookie) for _ in range(2))
        assert one.json == two.json == {"cart": ["tea"]}
        assert given(one) != given(two)
        assert asked("/show", given(one)).json == {"cart": ["tea"]}


class Checks(SimpleTestCase):  # type: ignore[misc]
    def found(self) -> list[str]:
        return [each.id for each in checks.run_checks() if each.id.startswith("holdfast.")]

    def setUp(self) -> None:
        os.environ.pop("HOLDFAST_SESSION_COOKIE", None)
        self.addCleanup(engine.cache_clear)
        self.addCleanup(os.environ.pop, "HOLDFAST_SESSION_COOKIE", None)
        self.addCleanup(os.environ.pop, "HOLDFAST_SESSION_MAX_AGE", None)

    def test_a_good_configuration_is_passed(self) -> None:
        assert self.found() == []
        os.environ["HOLDFAST_SESSION_COOKIE"] = "sessionid"
        assert self.found() == []

    def test_a_cookie_that_django_names_otherwise_is_an_error(self) -> None:
        os.environ["HOLDFAST_SESSION_COOKIE"] = "other"
        assert self.found() == ["holdfast.E002"]
        with override_settings(SESSION_COOKIE_NAME="other"):
            assert self.found() == []

    def test_names_and_paths_have_a_case_and_a_domain_has_no_dot(self) -> None:
        cases: tuple[tuple[str, str, dict[str, Any], list[str]], ...] = (
            ("COOKIE", "SessionID", {}, ["holdfast.E002"]),
            ("PATH", "/Shop", {"SESSION_COOKIE_PATH": "/shop"}, ["holdfast.E002"]),
            ("DOMAIN", "a.example", {"SESSION_COOKIE_DOMAIN": ".A.example"}, []),
            ("SAME_SITE", "strict", {"SESSION_COOKIE_SAMESITE": "Strict"}, []),
        )
        for name, value, theirs, found in cases:
            with pytest.MonkeyPatch.context() as environ, override_settings(**theirs):
                environ.setenv(f"HOLDFAST_SESSION_{name}", value)
                engine.cache_clear()
                assert self.found() == found, name

    def test_a_partitioned_cookie_that_django_cannot_set_is_an_error(self) -> None:
        with (
            pytest.MonkeyPatch.context() as environ,
            override_settings(SESSION_COOKIE_SECURE=True),
        ):
            environ.setenv("HOLDFAST_SESSION_HTTPS_ONLY", "true")
            environ.setenv("HOLDFAST_SESSION_PARTITIONED", "true")
            engine.cache_clear()
            assert self.found() == ["holdfast.E002"]

    def test_a_cookie_that_browsers_drop_is_a_warning(self) -> None:
        name = {"SESSION_COOKIE_NAME": "__Host-session"}
        with override_settings(**name):
            (told,) = [each for each in checks.run_checks() if each.id == "holdfast.W002"]
            assert "SESSION_COOKIE_NAME=__Host-session needs SESSION_COOKIE_SECURE" in told.msg
            assert "HOLDFAST_" not in told.msg
        with override_settings(**name, SESSION_COOKIE_SECURE=True):
            assert self.found() == []

    def test_another_serializer_is_told(self) -> None:
        with override_settings(SESSION_SERIALIZER="some.PickleSerializer"):
            assert self.found() == ["holdfast.W001"]

    def test_variables_that_cannot_work_are_an_error_and_stop_the_start(self) -> None:
        os.environ["HOLDFAST_SESSION_MAX_AGE"] = "soon"
        engine.cache_clear()
        assert self.found() == ["holdfast.E001"]
        with pytest.raises(ValueError, match="HOLDFAST_SESSION_MAX_AGE"):
            SessionMiddleware(lambda request: HttpResponse())

    def test_a_lifetime_that_was_set_is_taken(self) -> None:
        os.environ["HOLDFAST_SESSION_MAX_AGE"] = "60"
        engine.cache_clear()
        assert engine().lifetime == 60


def main() -> None:
    """Run the cases, and say how many there were."""
    cases = (Sessions, Requests, Moving, Checks)
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    suite = unittest.TestSuite(load(case) for case in cases)
    raise SystemExit(not unittest.TextTestRunner(verbosity=1).run(suite).wasSuccessful())


if __name__ == "__main__":
    main()
