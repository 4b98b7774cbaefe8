"""Sessions of Flask applications: Flask's ways kept, ours beneath them."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import flask
import pytest
from flask import Flask
from markupsafe import Markup
from tests.frameworks.wsgi_client import answer_of, asgi_of, awaited, environ_of, settle
from tests.sessions.browser import CountingStore
from werkzeug.exceptions import ServiceUnavailable

from holdfast import WSGISessionMiddleware
from holdfast import get_session as get_wsgi_session
from holdfast.errors import ConfigurationError, SessionError, SessionTooLate, SessionUnavailable
from holdfast.flask import FlaskSession, FlaskSessionInterface, HTTPSessionUnavailable, get_session
from holdfast.sessions.lifecycle import LONGEST_LIFETIME
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing.session_middleware import Handle, SessionMiddlewareSuite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from flask.testing import FlaskClient
    from starlette.types import ASGIApp
    from werkzeug.test import TestResponse

    from holdfast.sessions.store import Change, Outcome, SessionKey, SessionStore
    from holdfast.testing import RedisServer

KEY = "a key of more than sixteen characters"
SPECIAL = {
    "tuple": (1, (2,)),
    "bytes": b"\xff",
    "markup": Markup("<b>"),
    "uuid": UUID(int=7),
    "date": datetime(2026, 1, 2, tzinfo=UTC),
    "looks tagged": {" t": [1]},
    "nested": {"a": [(1, b"x")]},
}


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, key_prefix: str) -> SessionStore:
    if request.param == "memory":
        return MemorySessionStore()
    redis: RedisServer = request.getfixturevalue("redis")
    url = redis.url
    return RedisSessionStore(Settings(redis_url=url, key_prefix=key_prefix, redis_timeout=10))


class Site:
    """A Flask application whose one page does what a test says."""

    def __init__(self, store: SessionStore | None = None, **settings: Any) -> None:
        self.app = Flask(__name__)
        self.app.secret_key = KEY
        self.app.testing = True
        self.store = MemorySessionStore() if store is None else store
        made = Settings(**settings)
        self.app.session_interface = FlaskSessionInterface(made, self.store)
        self.handle: Callable[[], Any] = lambda: None
        self.app.add_url_rule("/", "page", lambda: flask.jsonify(self.handle()))
        self.client: FlaskClient = self.app.test_client()

    def do(self, handle: Callable[[], Any]) -> TestResponse:
        self.handle = handle
        return self.client.get("/")

    def write(self, **values: Any) -> TestResponse:
        return self.do(lambda: flask.session.update(values))

    def cookie(self) -> str | None:
        found = self.client.get_cookie("session")
        return None if found is None else found.value


def unseen() -> FlaskSession:
    """Return the session without having looked at it."""
    session = flask.globals.request_ctx._session
    assert isinstance(session, FlaskSession)
    return session


def set_cookie(answer: TestResponse) -> str | None:
    values = answer.headers.getlist("Set-Cookie")
    assert len(values) <= 1
    return values[0] if values else None


def test_what_one_request_writes_the_next_one_reads(store: SessionStore) -> None:
    site = Site(store)
    first = site.write(cart=[1], name="Zoë")
    assert set_cookie(first) is not None
    assert "HttpOnly; Path=/; SameSite=Lax" in first.headers["Set-Cookie"]
    assert (first.headers["Cache-Control"], first.headers["Vary"]) == ("no-store", "Cookie")
    second = site.do(lambda: dict(flask.session))
    assert second.json == {"cart": [1], "name": "Zoë"}
    assert (set_cookie(second), second.headers["Vary"]) == (None, "Cookie")


def test_who_does_not_look_pays_for_nothing() -> None:
    store = CountingStore()
    site = Site(store)
    site.write(a=1)
    store.told()
    answer = site.do(lambda: None)
    assert (store.told(), set_cookie(answer), answer.headers.get("Vary")) == ([], None, None)


def test_values_that_json_has_not_are_kept_as_flask_keeps_them(store: SessionStore) -> None:
    site = Site(store)
    site.write(**SPECIAL)
    seen: list[Any] = []
    site.do(lambda: seen.append(dict(flask.session)))
    assert seen == [SPECIAL]
    assert type(seen[0]["markup"]) is Markup


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["list"].append((2, 3)),
        lambda s: s["dict"].update(b=[True]),
        lambda s: s["tuple"][0].append(1),
    ],
    ids=["a list", "a dict", "inside a tuple"],
)
def test_a_change_inside_a_value_is_kept_without_modified(change: Callable[[Any], Any]) -> None:
    site = Site()
    site.write(list=[1], dict={"a": 1, "b": [1]}, tuple=([],))
    site.do(lambda: change(flask.session))
    seen: list[Any] = []
    site.do(lambda: seen.append(dict(flask.session)))
    expected: dict[str, Any] = {"list": [1], "dict": {"a": 1, "b": [1]}, "tuple": ([],)}
    change(expected)
    assert {key: repr(value) for key, value in seen[0].items()} == {
        key: repr(value) for key, value in expected.items()
    }


def test_the_mapping_is_whole() -> None:
    site = Site()

    def handle() -> None:
        session = flask.session
        session["a"], session["b"] = (1,), 2
        assert session.setdefault("a", 5) == (1,)
        assert session.pop("b") == 2
        assert session.pop("b", None) is None
        assert "a" in session
        assert list(session) == ["a"]
        session["a"] = "plain"
        assert session["a"] == "plain"
        del session["a"]
        with pytest.raises(KeyError):
            session["a"]
        assert len(session) == 0
        session["a"] = [1]
        session.clear()
        assert not session
        with pytest.raises(TypeError, match="obj"):
            session["obj"] = object()

    site.do(handle)
    assert site.cookie() is None


def test_the_session_shows_neither_values_nor_a_look_at_it() -> None:
    site = Site()
    site.write(secret="hidden")

    def handle() -> str:
        session = unseen()
        assert not session.accessed
        first = repr(session)
        assert "secret" in session
        return first + repr(session)

    said = "<SyncSession keys=['secret']>>"
    assert site.do(handle).json == "<FlaskSession unopened><FlaskSession " + said


def test_modified_accessed_and_new_say_what_flasks_say() -> None:
    site = Site()
    seen: list[tuple[bool, ...]] = []

    def note(do: Callable[[], Any]) -> None:
        do()
        session = unseen()
        seen.append((session.accessed, session.modified))

    site.do(lambda: note(lambda: None))
    site.do(lambda: note(lambda: flask.session.get("a")))
    site.do(lambda: note(lambda: flask.session.update(a=1)))
    assert seen == [(False, False), (True, False), (True, True)]
    fresh: list[bool] = []
    site.do(lambda: fresh.append(flask.session.new))
    site.do(lambda: fresh.append(get_session().is_new))
    Site().do(lambda: fresh.append(flask.session.new))
    assert fresh == [False, False, True]


def test_ours_verbs_are_there(store: SessionStore) -> None:
    site = Site(store)
    site.write(user_id=7, n=1, pair=(1, 2))
    old = site.cookie()
    seen: list[Any] = []

    def handle() -> None:
        session = get_session()
        flask.session["pair"] = (1, 2, 3)
        session.save()
        seen.append(session.incr("n", 2))
        seen.append(session.update_with("pair", lambda pair: (*pair, 4)))
        seen.append((session.owner, session.available, session.degraded))
        seen.append(session.expires_at > session.created_at)  # type: ignore[operator]
        name = session.id_hash
        session.regenerate_id()
        seen.append(name == session.id_hash)

    site.do(handle)
    assert seen == [3, (1, 2, 3, 4), ("user:7", True, None), True, True]
    assert site.cookie() not in (None, old)
    site.do(lambda: seen.append((flask.session["n"], flask.session["pair"])))
    assert seen[-1] == (3, (1, 2, 3, 4))
    site.do(lambda: get_session().invalidate())
    assert site.cookie() is None


def test_logging_in_renews_the_id_and_emptying_logs_out(store: SessionStore) -> None:
    site = Site(store)
    site.write(cart=[1])
    anonymous = site.cookie()
    site.write(_user_id="7")  # as Flask-Login does
    assert site.cookie() != anonymous
    site.do(lambda: flask.session.clear())  # noqa: PLW0108 - bound when it is asked for
    assert site.cookie() is None


def test_flashed_messages_are_read_once() -> None:
    site = Site()
    site.do(lambda: flask.flash("saved", "info"))
    read = lambda: flask.get_flashed_messages(with_categories=True)  # noqa: E731
    assert site.do(read).json == [["info", "saved"]]
    assert site.do(read).json == []


# --- lifetimes and the cookie -------------------------------------------------------------------


def expiry_of(answer: TestResponse) -> datetime | None:
    from werkzeug.http import parse_date

    line = set_cookie(answer)
    assert line is not None
    parts = dict(part.partition("=")[::2] for part in line.split("; ")[1:])
    return parse_date(parts.get("Expires"))


def test_a_permanent_session_has_flasks_lifetime_and_another_ends_with_the_browser() -> None:
    site = Site()
    site.app.permanent_session_lifetime = timedelta(hours=1)
    site.write(a=1)
    assert expiry_of(site.write(_permanent=True)) is not None

    def permanent(value: bool) -> None:
        flask.session.permanent = value

    expires = expiry_of(site.do(lambda: permanent(True)))
    assert expires is not None
    assert timedelta(minutes=55) < expires - datetime.now(UTC) < timedelta(minutes=65)
    assert expiry_of(site.do(lambda: permanent(False))) is None
    assert set_cookie(site.do(lambda: len(flask.session))) is None


def test_a_permanent_session_is_refreshed_by_each_request_that_looks_unless_told_not_to() -> None:
    site = Site()
    site.write(_permanent=True)
    assert set_cookie(site.do(lambda: len(flask.session))) is not None
    site.app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    assert set_cookie(site.do(lambda: len(flask.session))) is None
    assert set_cookie(site.write(a=1)) is not None


def test_a_refresh_never_takes_the_place_of_a_newer_cookie() -> None:
    store = MemorySessionStore()
    site, other = Site(store), Site(store)
    site.write(_permanent=True)
    value = site.cookie()
    assert value is not None

    def handle() -> None:
        len(flask.session)
        other.client.set_cookie("session", value)
        other.do(lambda: get_session().regenerate_id())

    assert set_cookie(site.do(handle)) is None


def test_a_session_lives_from_visit_to_visit_and_at_most_as_long_as_ours_says() -> None:
    ends: list[float] = []

    def end() -> None:
        assert get_session()
        exchange = get_session().exchange
        assert exchange is not None
        terms = exchange.setup.terms
        ends.extend((terms.lifetime, terms.idle_timeout))

    for settings, lifetime in (
        ({}, (LONGEST_LIFETIME, 3600)),
        ({"session_max_age": 60}, (60, 3600)),
        ({"session_idle_timeout": 30}, (LONGEST_LIFETIME, 30)),
    ):
        site = Site(None, **settings)
        site.app.permanent_session_lifetime = timedelta(hours=1)
        site.write(a=1)
        site.do(end)
        assert tuple(ends[-2:]) == lifetime


def test_a_cookie_never_outlives_its_session() -> None:
    site = Site(None, session_max_age=60)
    expires = expiry_of(site.write(_permanent=True))
    assert expires is not None
    assert expires - datetime.now(UTC) <= timedelta(seconds=61)


def test_a_lifetime_of_nothing_expires_at_once() -> None:
    site = Site()
    site.app.permanent_session_lifetime = timedelta(0)
    site.write(_permanent=True)
    assert len(site.store) == 0  # type: ignore[arg-type]


def test_flasks_cookie_settings_are_honoured_as_they_are_at_the_request() -> None:
    site = Site()
    site.app.config.update(
        SESSION_COOKIE_NAME="biscuit",
        SESSION_COOKIE_DOMAIN=".example.com",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="None",
        SESSION_COOKIE_PARTITIONED=True,
        SESSION_COOKIE_HTTPONLY=False,
        APPLICATION_ROOT="/app",
    )
    line = set_cookie(site.write(a=1))
    assert line is not None
    value, *rest = line.split("; ")
    assert value.startswith("biscuit=")
    assert sorted(rest) == [
        "Domain=example.com",
        "Partitioned",
        "Path=/app",
        "SameSite=None",
        "Secure",
    ]


def test_what_a_variable_says_comes_first_and_the_clash_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOLDFAST_SESSION_COOKIE", "ours")
    monkeypatch.setenv("HOLDFAST_SESSION_SAME_SITE", "strict")
    monkeypatch.setenv("HOLDFAST_SECRET_KEY", KEY)
    app = Flask(__name__)
    app.config.update(SESSION_COOKIE_NAME="theirs", SESSION_COOKIE_SAMESITE="Strict")
    app.session_interface = FlaskSessionInterface(store=MemorySessionStore())
    app.add_url_rule("/", "page", lambda: str(flask.session.update(a=1)))
    line = app.test_client().get("/").headers["Set-Cookie"]
    assert line.startswith("ours=")
    assert "SameSite=Strict" in line
    told = [line for line in caplog.messages if "is not used" in line]
    assert told == ["SESSION_COOKIE_NAME='theirs' is not used: HOLDFAST_SESSION_COOKIE says 'ours'"]


def test_a_combination_that_browsers_drop_is_refused() -> None:
    site = Site()
    site.app.config["SESSION_COOKIE_SAMESITE"] = "None"
    with pytest.raises(ConfigurationError, match="HTTPS_ONLY"):
        site.write(a=1)


def test_keys_are_flasks_and_older_ones_still_open() -> None:
    site = Site()
    site.app.secret_key = b"the first key of this site"
    first = site.write(a=1)
    site.app.config.update(
        SECRET_KEY="the second key of this site",
        SECRET_KEY_FALLBACKS=["the first key of this site"],
    )
    answer = site.do(lambda: dict(flask.session))
    assert answer.json == {"a": 1}
    assert set_cookie(answer) not in (None, set_cookie(first))
    site.app.config["SECRET_KEY_FALLBACKS"] = None
    assert site.do(lambda: dict(flask.session)).json == {"a": 1}


def test_without_a_key_flask_says_so_itself() -> None:
    site = Site()
    site.app.secret_key = None
    with pytest.raises(RuntimeError, match="secret key"):
        site.write(a=1)


def test_a_name_of_the_cookie_may_be_chosen_for_each_request() -> None:
    class Interface(FlaskSessionInterface):
        def get_cookie_name(self, app: Flask) -> str:
            return flask.request.headers.get("X-Site", super().get_cookie_name(app))

    site = Site()
    site.app.session_interface = Interface(store=MemorySessionStore())
    site.handle = lambda: flask.session.setdefault("a", flask.request.headers.get("X-Site"))
    for _ in range(2):
        for name in ("one", "two"):
            assert site.client.get("/", headers={"X-Site": name}).json == name


# --- streams, tests, teardown -------------------------------------------------------------------


def test_a_stream_reads_the_session_and_what_it_writes_is_stored_at_its_end() -> None:
    site = Site()
    told: list[type] = []

    @site.app.get("/stream")
    def stream() -> flask.Response:
        def parts() -> Iterator[str]:
            yield str(flask.session["n"])
            flask.session["n"] = (2,)
            try:
                get_session().regenerate_id()
            except SessionTooLate as error:
                told.append(type(error))

        return flask.Response(flask.stream_with_context(parts()))

    site.write(n=1)
    answer = site.client.get("/stream")
    # Whoever has read it to its end may ask anew at once.
    assert (answer.text, set_cookie(answer), told) == ("1", None, [SessionTooLate])
    assert site.do(lambda: flask.session["n"]).json == [2]


def test_what_a_stream_has_written_is_stored_where_its_reader_leaves() -> None:
    site = Site()
    ended: list[bool] = []

    @site.app.get("/stream")
    def stream() -> flask.Response:
        def parts() -> Iterator[str]:
            flask.session["n"] = 2
            try:
                yield "part"
            finally:
                ended.append(True)

        return flask.Response(flask.stream_with_context(parts()))

    site.write(n=1)
    answer = site.client.get("/stream")
    assert next(answer.iter_encoded()) == b"part"
    answer.close()
    assert ended == [True]
    assert site.do(lambda: flask.session["n"]).json == 2


def test_what_a_stream_cannot_store_is_told_when_it_is_closed() -> None:
    site = Site()

    @site.app.get("/stream")
    def stream() -> flask.Response:
        def parts() -> Iterator[str]:
            flask.session["cart"].append(object())
            yield "part"

        return flask.Response(flask.stream_with_context(parts()))

    site.write(cart=[])
    answer = site.client.get("/stream")
    assert answer.text == "part"
    with pytest.raises(TypeError, match="cart"):
        answer.close()


def test_a_session_begun_in_a_stream_is_too_late(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()

    @site.app.get("/stream")
    def stream() -> flask.Response:
        def parts() -> Iterator[str]:
            flask.session["n"] = 1
            yield "part"

        return flask.Response(flask.stream_with_context(parts()))

    # The first part is made before the head leaves only where somebody asks for it.
    site.client.get("/stream").close()
    assert len(site.store) == 0  # type: ignore[arg-type]
    assert any("after the response had started" in line for line in caplog.messages)


def test_the_test_client_opens_and_stores_a_session() -> None:
    site = Site()
    with site.client.session_transaction() as session:
        session["a"] = (1,)
    with site.client.session_transaction() as session:
        assert session["a"] == (1,)
    with site.client:
        site.do(lambda: None)
        assert flask.session["a"] == (1,)


def test_a_teardown_may_still_read_it() -> None:
    site = Site()
    seen: list[Any] = []
    site.app.teardown_request(lambda _: seen.append(flask.session.get("a")))
    site.write(a=1)
    assert seen == [1]


# --- errors -------------------------------------------------------------------------------------


def test_what_fails_at_the_save_is_500_and_nothing_is_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    site = Site()
    site.app.testing = False
    site.write(a=[])
    assert site.do(lambda: flask.session["a"].append(object())).status_code == 500
    assert site.do(lambda: flask.session["a"]).json == []


def test_an_error_of_the_view_is_handled_and_what_it_wrote_is_stored_as_flask_does() -> None:
    site = Site()

    @site.app.errorhandler(ValueError)
    def sorry(_: ValueError) -> tuple[str, int]:
        return "sorry", 500

    def handle() -> None:
        flask.session["a"] = 1
        raise ValueError

    assert site.do(handle).text == "sorry"
    assert site.do(lambda: flask.session["a"]).json == 1


def test_the_503_is_flasks_own() -> None:
    error = HTTPSessionUnavailable("away", 7)
    assert isinstance(error, SessionUnavailable)
    assert isinstance(error, ServiceUnavailable)
    assert (str(error), error.code, error.retry_after) == ("away", 503, 7)


def test_while_redis_is_away_a_write_is_503_and_a_page_without_one_is_served(
    fresh_redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    settings = {"redis_url": fresh_redis.url, "key_prefix": key_prefix, "secret_key": KEY}
    made = Settings(**settings, redis_timeout=10, session_on_outage="readonly")  # type: ignore[arg-type]
    store = FallbackSessionStore(made)
    settle(store)
    site = Site(store, **settings)
    site.write(a=[1], _permanent=True)
    cookie = site.cookie()
    fresh_redis.kill()
    assert site.do(lambda: flask.session["a"]).json == [1]
    refused = site.write(a=2)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    inside = site.do(lambda: flask.session["a"].append(2))
    assert (inside.status_code, inside.headers["Retry-After"]) == (503, "2")
    assert b"cannot be reached" in inside.data
    assert (set_cookie(refused), set_cookie(inside), site.cookie()) == (None, None, cookie)
    store.link.close()


def test_memory_is_refused_where_there_are_other_processes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    app = Flask(__name__)
    app.secret_key = KEY
    app.session_interface = FlaskSessionInterface(Settings())
    app.add_url_rule("/", "page", lambda: str(flask.session.get("a")))
    several = environ_of() | {"wsgi.multiprocess": True}
    assert answer_of(app, several).code == 503


def test_a_cookie_that_cannot_work_is_all_that_the_log_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    site.app.testing = False
    site.app.config["SESSION_COOKIE_NAME"] = "__Host-session"
    assert site.do(lambda: "page").status_code == 500
    told = [type(line.exc_info[1]) for line in caplog.records if line.exc_info]
    assert told == [ConfigurationError]


def test_who_needs_no_session_is_served_where_each_request_counts_and_none_can() -> None:
    site = Site(session_idle_timeout=60)
    site.app.session_interface = FlaskSessionInterface(Settings(session_idle_timeout=60))
    several = {"wsgi.multiprocess": True}
    site.handle = lambda: "page"
    assert site.client.get("/", environ_overrides=several).json == "page"
    site.handle = lambda: flask.session.get("n")
    assert site.client.get("/", environ_overrides=several).status_code == 503


def test_what_another_framework_shares_keeps_what_only_flask_can_write(
    store: SessionStore,
) -> None:
    site, seen = Site(store), []
    site.write(pair=(1, b"x"), n=1)
    cookie = site.cookie()

    def other(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        session = get_wsgi_session(environ)
        seen.append(session["pair"])
        session["n"] = 2
        start_response("200 OK", [])
        return [b""]

    settings = Settings(secret_key=KEY)
    beside = WSGISessionMiddleware(other, settings=settings, store=store)
    assert answer_of(beside, environ_of(cookie=f"session={cookie}")).set_cookie is None
    assert seen == [{" t": [1, {" b": "eA=="}]}]
    site.do(lambda: seen.append(dict(flask.session)))
    assert seen[-1] == {"pair": (1, b"x"), "n": 2}


def test_an_async_view_has_the_same_session(store: SessionStore) -> None:
    site = Site(store)

    @site.app.get("/async")
    async def awaited_page() -> str:
        flask.session["n"] = flask.session.get("n", 0) + 1
        get_session().save()
        return str(get_session().incr("n"))

    assert [site.client.get("/async").text for _ in range(2)] == ["2", "4"]


def test_an_async_view_has_the_session_of_a_store_that_waits_for_a_loop() -> None:
    class Elsewhere(MemorySessionStore):
        @property
        def waits_in_place(self) -> bool:
            return False

        async def save(
            self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0
        ) -> Outcome:
            await asyncio.sleep(0)
            return await super().save(key, change, idle_timeout=idle_timeout)

    site = Site(Elsewhere())

    @site.app.get("/async")
    async def awaited_page() -> str:
        flask.session["n"] = flask.session.get("n", 0) + 1
        get_session().save()
        return str(flask.session["n"])

    assert [site.client.get("/async").text for _ in range(2)] == ["1", "2"]


def test_an_answer_that_failed_to_leave_is_followed_by_one_with_the_cookie(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    site = Site()
    site.app.testing = False

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError

    with flask.request_finished.connected_to(fail, site.app):
        answer = site.write(a=1)
    assert (answer.status_code, set_cookie(answer) is None) == (500, False)
    assert site.do(lambda: flask.session["a"]).json == 1


def test_a_middleware_around_flask_is_in_charge() -> None:
    site, outer = Site(), MemorySessionStore()
    settings = Settings(secret_key=KEY)
    app = WSGISessionMiddleware(site.app.wsgi_app, settings=settings, store=outer)
    site.app.wsgi_app = app  # type: ignore[method-assign]
    assert set_cookie(site.write(pair=(1, 2))) is not None
    assert len(outer) == 1
    seen: list[Any] = []
    site.do(lambda: seen.append(flask.session["pair"]))
    assert seen == [(1, 2)]


def test_a_session_of_others_is_told_apart() -> None:
    app = Flask(__name__)
    app.secret_key = KEY
    with app.test_request_context(), pytest.raises(SessionError, match="FlaskSessionInterface"):
        get_session()
    with Site().app.test_request_context():
        interface = FlaskSessionInterface()
        with pytest.raises(SessionError, match="no session of holdfast"):
            interface.save_session(app, flask.sessions.NullSession(), flask.Response())


def test_with_an_idle_timeout_of_ours_every_request_counts() -> None:
    store = CountingStore()
    site = Site(store, session_idle_timeout=60)
    site.write(a=1)
    store.told()
    assert site.do(lambda: None).headers.get("Vary") is None
    assert store.told() == ["load"]


class TestConformance(SessionMiddlewareSuite):
    """The suite of middlewares over a Flask application, where Flask has no rule of its own."""

    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.store = MemorySessionStore()

    def make_app(self, handle: Handle, settings: Settings) -> ASGIApp:
        app = Flask(__name__)
        app.config.update(PROPAGATE_EXCEPTIONS=True)
        app.session_interface = FlaskSessionInterface(settings, self.store)

        @app.get("/")
        def page() -> flask.Response:
            session = flask.session._get_current_object()  # type: ignore[attr-defined]
            session.__class__ = _Awaited
            # Loaded when the request begins, as the suite takes it.
            assert session.held is not None
            return flask.jsonify(awaited(handle, session))

        return asgi_of(app)

    async def test_a_cancelled_request_saves_nothing_and_the_next_is_served(self) -> None:
        """A thread cannot be cancelled."""

    @pytest.mark.parametrize(
        "value", [object(), {1}, {1: 2}, float("nan")], ids=["object", "set", "key", "nan"]
    )
    async def test_what_json_cannot_carry_is_refused_where_it_is_written(self, value: Any) -> None:
        """Bytes and dates can: Flask tags them."""
        await super().test_what_json_cannot_carry_is_refused_where_it_is_written(value)

    async def test_the_cookie_is_for_the_server_alone(self) -> None:
        """Its attributes are spelled by Werkzeug, and tested above."""


class _Awaited(FlaskSession):
    """As handlers of the suite take it, which await."""

    async def save(self) -> None:  # type: ignore[override]
        FlaskSession.save(self)
