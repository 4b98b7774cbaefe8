# ruff: noqa: S101 - pytest explains a bare assert best
"""The conformance suite of session middlewares: what a browser may rely on, as tests to inherit.

Everything goes through the door that browsers use, and nothing looks behind it: which store is
there, and how an adapter hands the session over, is the subclass's own affair.

    class TestMyStoreBehindTheMiddleware(SessionMiddlewareSuite):
        def make_app(self, handle: Handle, settings: Settings) -> ASGIApp:
            return SessionMiddleware(session_app(handle), settings=settings, store=self.store)

It needs pytest, and runs on anyio's plugin, which comes with holdfast.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from holdfast.errors import SessionTooLarge
from holdfast.sessions.cookie import CookieSigner, new_credential
from holdfast.sessions.session import Session, get_session
from holdfast.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What a test does with the session; what it returns, JSON or nothing, is the answer's body.
Handle = Callable[[Session], Any]

_KEY = "the key of a conformance suite"


def session_app(handle: Handle) -> ASGIApp:
    """Return an application that has *handle* use the session and answers what it returned."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        result = handle(get_session(scope))
        if inspect.isawaitable(result):
            result = await result
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(result).encode()})

    return app


@dataclass
class Answer:
    """What came back: status, headers as text, and the body's JSON, if it is any."""

    status: int
    headers: list[tuple[str, str]]
    body: Any

    def header(self, name: str) -> str | None:
        """Return the value of a header, of which there may be one at most."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, f"{name} came {len(found)} times"
        return found[0] if found else None

    @property
    def set_cookie(self) -> str | None:
        """The ``Set-Cookie`` header."""
        return self.header("set-cookie")


@dataclass
class Visitor:
    """A browser: it keeps the session cookie as it is told.

    Attributes:
        cookie: its value, ``None`` while there is none.
    """

    cookie: str | None = None
    log: list[Answer] = field(default_factory=list)

    async def visit(self, app: ASGIApp, cookie_header: str | None = None) -> Answer:
        """Send a GET to *app*, with the cookie or with exactly *cookie_header*."""
        if cookie_header is None and self.cookie is not None:
            cookie_header = f"session={self.cookie}"
        answer = await _answer_of(app, cookie_header)
        self.log.append(answer)
        value, _, rest = (answer.set_cookie or "").partition(";")
        if value.startswith("session="):
            gone = "1970" in rest or "max-age=0" in rest.lower()
            self.cookie = None if gone else value.removeprefix("session=")
        return answer

    def twin(self) -> Visitor:
        """Return another who holds the same cookie now: a second tab, or a thief."""
        return Visitor(self.cookie)


async def _answer_of(app: ASGIApp, cookie: str | None) -> Answer:
    headers = [(b"host", b"test")]
    if cookie is not None:
        headers.append((b"cookie", cookie.encode("latin-1")))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }
    sent: list[Message] = []
    incoming: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = next(m for m in sent if m["type"] == "http.response.start")
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    got = [(k.decode().lower(), v.decode("latin-1")) for k, v in start.get("headers", ())]
    try:
        return Answer(start["status"], got, json.loads(body or b"null"))
    except ValueError:
        return Answer(start["status"], got, None)


def _writing(**values: Any) -> Handle:
    return lambda session: session.update(values)


@pytest.mark.anyio
class SessionMiddlewareSuite:
    """Inherit it in a class called ``Test…`` and say how an application is made."""

    def make_app(self, handle: Handle, settings: Settings) -> ASGIApp:
        """Return sessions around :func:`session_app` of *handle*, or its like.

        All applications of one test share one store, as the processes of one site do.

        Args:
            handle: takes the session; awaited where it returns an awaitable.
            settings: of the sessions; which store serves is yours to say.
        """
        raise NotImplementedError("say how an application is made: override make_app")

    def _settings(self, **changed: Any) -> Settings:
        return Settings(secret_key=_KEY, redis_url="off", **changed)

    async def _do(
        self, visitor: Visitor, handle: Handle, cookie_header: str | None = None, **settings: Any
    ) -> Answer:
        app = self.make_app(handle, self._settings(**settings))
        return await visitor.visit(app, cookie_header)

    async def _data(self, visitor: Visitor) -> dict[str, Any]:
        found: dict[str, Any] = (await self._do(visitor, dict)).body
        return found

    async def _user(self, **data: Any) -> Visitor:
        visitor = Visitor()
        await self._do(visitor, _writing(**(data or {"user_id": 7, "cart": [1]})))
        assert visitor.cookie, "the first write gave no cookie"
        return visitor

    async def _meanwhile(self, visitor: Visitor, slow: Handle, other: Handle) -> Answer:
        """Have *other* done in a second tab while *slow* is loaded and waits for its commit."""
        tab, answers = visitor.twin(), []
        loaded, go_on = anyio.Event(), anyio.Event()

        async def waiting(session: Session) -> None:
            slow(session)
            loaded.set()
            await go_on.wait()

        async def first() -> None:
            answers.append(await self._do(tab, waiting))

        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await loaded.wait()
            await self._do(visitor, other)
            go_on.set()
        return answers[0]

    # --- it lives -------------------------------------------------------------------------------

    async def test_what_one_request_writes_the_next_one_reads(self) -> None:
        visitor = await self._user(cart=[1, {"a": None}], name="Zoë")
        assert await self._data(visitor) == {"cart": [1, {"a": None}], "name": "Zoë"}

    async def test_the_cookie_is_for_the_server_alone(self) -> None:
        visitor = await self._user()
        sent = (visitor.log[0].set_cookie or "").lower()
        assert "httponly" in sent
        assert "samesite=lax" in sent
        assert "max-age=1209600" in sent

    async def test_a_change_inside_a_value_is_kept(self) -> None:
        visitor = await self._user()
        await self._do(visitor, lambda session: session["cart"].append({"n": 2}))
        assert (await self._data(visitor))["cart"] == [1, {"n": 2}]

    async def test_whoever_writes_nothing_gets_no_cookie(self) -> None:
        visitor = Visitor()
        for handle in (dict, lambda s: s.get("x"), lambda s: s.clear(), lambda s: None):
            await self._do(visitor, handle)
        assert [answer.set_cookie for answer in visitor.log] == [None] * 4

    async def test_an_unchanged_session_sends_no_cookie(self) -> None:
        visitor = await self._user()
        for handle in (dict, lambda s: s["cart"] == [1], _writing(user_id=7)):
            assert (await self._do(visitor, handle)).set_cookie is None

    async def test_an_answer_that_depends_on_the_session_says_so_to_caches(self) -> None:
        visitor = await self._user()
        uses: list[Handle] = [dict, len, bool, list, lambda s: "x" in s, lambda s: s.get("x")]
        for use in uses:
            answer = await self._do(visitor, use)
            assert "cookie" in (answer.header("vary") or "").lower()

    async def test_an_answer_that_sets_the_cookie_is_not_cached(self) -> None:
        visitor = await self._user()
        assert "no-store" in (visitor.log[0].header("cache-control") or "")

    async def test_three_first_visits_at_once_are_three_sessions(self) -> None:
        visitors = [Visitor() for _ in range(3)]
        async with anyio.create_task_group() as group:
            for visitor in visitors:
                group.start_soon(self._do, visitor, _writing(a=1))
        assert len({visitor.cookie for visitor in visitors} - {None}) == 3

    # --- ids that are not ours ------------------------------------------------------------------

    async def test_an_id_that_was_never_issued_is_not_adopted(self) -> None:
        foreign = new_credential()
        cookie = CookieSigner(self._settings().signing_keys()).sign(foreign)
        visitor = Visitor(cookie)
        assert (await self._do(visitor, dict)).set_cookie is None
        await self._do(visitor, _writing(a=1))
        assert visitor.cookie
        assert foreign.locator not in visitor.cookie
        assert await self._data(Visitor(cookie)) == {}

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "x",
            "a" * 10_240,
            "../../x",
            "a:b*?[",
            "a\r\nSet-Cookie: x=y",
            "a\x00b",
            "ü",
            "null",
            '"x\\073 domain=evil"',
        ],
    )
    async def test_a_malformed_cookie_is_no_cookie_and_comes_back_nowhere(
        self, value: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        visitor = Visitor()
        assert (await self._do(visitor, dict, f"session={value}")).body == {}
        answer = await self._do(visitor, _writing(a=1), f"session={value}")
        assert answer.set_cookie
        if len(value) > 4:
            assert value not in str(answer.headers)
            assert value not in caplog.text

    async def test_one_bit_flipped_is_another_cookie(self) -> None:
        visitor = await self._user()
        cookie = visitor.cookie or ""
        for at in (0, 20, 30, 50, 70):
            changed = cookie[:at] + chr(ord(cookie[at]) ^ 1) + cookie[at + 1 :]
            assert await self._data(Visitor(changed)) == {}

    async def test_of_two_different_sessions_in_one_request_none_is_believed(self) -> None:
        mine, tossed = await self._user(), await self._user()
        both = f"session={mine.cookie}; session={tossed.cookie}"
        assert (await self._do(Visitor(), dict, both)).body == {}
        assert (await self._do(Visitor(), dict, f"session=x; session={mine.cookie}")).body

    # --- login and logout -----------------------------------------------------------------------

    async def test_a_login_gives_a_new_cookie_and_the_old_one_dies(self) -> None:
        visitor = await self._user(cart=[1])
        known_before = visitor.twin()
        await self._do(visitor, _writing(user_id=7))
        assert visitor.cookie != known_before.cookie
        assert await self._data(visitor) == {"cart": [1], "user_id": 7}
        answer = await self._do(known_before, _writing(user_id="attacker"))
        assert answer.set_cookie is None
        assert await self._data(known_before) == {}
        assert (await self._data(visitor))["user_id"] == 7

    async def test_a_regeneration_keeps_the_data_and_the_name_of_the_session(self) -> None:
        visitor = await self._user()
        old = visitor.twin()
        before = (await self._do(visitor, lambda s: [s.id_hash, dict(s)])).body
        await self._do(visitor, lambda session: session.regenerate_id())
        assert visitor.cookie != old.cookie
        assert (await self._do(visitor, lambda s: [s.id_hash, dict(s)])).body == before
        assert await self._data(old) == {}

    async def test_a_logout_ends_the_session_and_the_cookie(self) -> None:
        visitor = await self._user()
        tab = visitor.twin()
        await self._do(visitor, lambda session: session.invalidate())
        assert visitor.cookie is None
        assert await self._data(tab) == {}

    async def test_removing_every_key_is_a_logout(self) -> None:
        visitor = await self._user()
        tab = visitor.twin()
        await self._do(visitor, lambda session: session.clear())
        assert visitor.cookie is None
        assert await self._data(tab) == {}

    async def test_a_session_emptied_after_a_login_is_destroyed_as_well(self) -> None:
        visitor = await self._user(cart=[1])
        await self._do(visitor, _writing(user_id=7))
        tab = visitor.twin()
        await self._do(visitor, lambda session: session.clear())
        assert visitor.cookie is None
        assert (await self._do(tab, lambda session: session.is_new)).body is True

    async def test_after_a_logout_the_same_request_can_begin_a_new_session(self) -> None:
        visitor = await self._user()
        tab = visitor.twin()

        def again(session: Session) -> None:
            session.invalidate()
            session.update(flash="bye", cart=[1])

        await self._do(visitor, again)
        assert await self._data(visitor) == {"flash": "bye", "cart": [1]}
        assert await self._data(tab) == {}

    # --- several at once ------------------------------------------------------------------------

    async def test_a_hundred_requests_that_write_different_keys_keep_all(self) -> None:
        visitor = await self._user()
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(self._do, visitor.twin(), _writing(**{f"k{number}": number}))
        assert len(await self._data(visitor)) == 102

    async def test_of_two_writes_to_one_key_the_last_wins_and_harms_no_other(self) -> None:
        visitor = await self._user(n=0, other=0)
        await self._meanwhile(visitor, _writing(n=1), _writing(n=2, other=2))
        assert await self._data(visitor) == {"n": 1, "other": 2}

    async def test_a_key_that_was_removed_stays_removed_under_an_older_request(self) -> None:
        visitor = await self._user(k=1, j=1)
        await self._meanwhile(visitor, _writing(j=2), lambda session: session.pop("k"))
        assert await self._data(visitor) == {"j": 2}

    async def test_a_slow_reader_brings_no_session_and_no_cookie_back(self) -> None:
        visitor = await self._user()
        stolen = visitor.twin()
        answer = await self._meanwhile(visitor, dict, lambda session: session.invalidate())
        assert answer.set_cookie is None
        assert await self._data(stolen) == {}

    async def test_a_slow_writer_is_dropped_once_the_session_is_gone(self) -> None:
        visitor = await self._user()
        stolen = visitor.twin()
        answer = await self._meanwhile(
            visitor, _writing(late=1), lambda session: session.invalidate()
        )
        assert (answer.status, answer.set_cookie) == (200, None)
        assert await self._data(stolen) == {}

    async def test_a_login_that_meets_a_logout_gets_no_cookie(self) -> None:
        visitor = await self._user()
        stolen = visitor.twin()
        answer = await self._meanwhile(
            visitor, _writing(user_id=8), lambda session: session.invalidate()
        )
        assert (answer.status, answer.set_cookie) == (200, None)
        assert await self._data(stolen) == {}

    async def test_a_save_that_was_refused_begins_no_new_session(self) -> None:
        visitor = await self._user()
        tab = visitor.twin()

        async def handle(session: Session) -> None:
            await self._do(visitor, lambda other: other.invalidate())
            session["late"] = 1
            await session.save()
            session["later"] = 1

        answer = await self._do(tab, handle)
        assert (answer.status, answer.set_cookie) == (200, None)
        assert await self._data(tab) == {}

    async def test_tasks_of_one_request_that_save_at_once_keep_all(self) -> None:
        async def handle(session: Session) -> None:
            async def task(name: str) -> None:
                session[name] = 1
                await session.save()

            async with anyio.create_task_group() as group:
                for name in "abcdef":
                    group.start_soon(task, name)

        visitor = Visitor()
        await self._do(visitor, handle)
        assert await self._data(visitor) == dict.fromkeys("abcdef", 1)

    async def test_a_logout_by_a_request_that_began_before_a_login_ends_it_too(self) -> None:
        visitor = await self._user(cart=[1])
        await self._meanwhile(visitor, lambda session: session.invalidate(), _writing(user_id=7))
        assert await self._data(visitor) == {}

    # --- failures -------------------------------------------------------------------------------

    async def test_a_handler_that_raises_saves_nothing(self) -> None:
        visitor = await self._user()

        def fail(session: Session) -> None:
            session["half"] = 1
            raise LookupError("the handler's own")

        try:
            answer = await self._do(visitor, fail)
        except LookupError:
            pass
        else:
            assert answer.status == 500
        assert "half" not in await self._data(visitor)

    async def test_a_cancelled_request_saves_nothing_and_the_next_is_served(self) -> None:
        visitor = await self._user()

        async def hang(session: Session) -> None:
            session["half"] = 1
            await anyio.sleep_forever()

        with anyio.move_on_after(0.05):
            await self._do(visitor.twin(), hang)
        assert await self._data(visitor) == {"user_id": 7, "cart": [1]}

    @pytest.mark.parametrize("value", [float("nan"), {1}, b"x", {1: 2}, object()])
    async def test_what_json_cannot_carry_is_refused_where_it_is_written(self, value: Any) -> None:
        visitor = await self._user()

        def write(session: Session) -> None:
            with pytest.raises(TypeError):
                session["when"] = value

        await self._do(visitor, write)
        assert await self._data(visitor) == {"user_id": 7, "cart": [1]}

    async def test_a_session_too_large_is_refused_and_the_old_data_kept(self) -> None:
        visitor = await self._user()

        def write(session: Session) -> None:
            with pytest.raises(SessionTooLarge):
                session["big"] = "x" * 2000

        await self._do(visitor, write, session_max_bytes=1000)
        assert await self._data(visitor) == {"user_id": 7, "cart": [1]}

    # --- what is shown --------------------------------------------------------------------------

    async def test_neither_a_cookie_nor_a_value_is_in_the_log_or_a_repr(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        visitor = await self._user(card="4111 1111")
        shown = (await self._do(visitor, repr)).body
        await self._do(visitor.twin(), lambda session: session.regenerate_id())
        await self._do(visitor, dict)
        for part in ("4111 1111", *(visitor.cookie or "").split(".")):
            assert part not in shown
            assert part not in caplog.text
