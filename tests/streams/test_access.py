"""Who may read a run: tokens as a truth table, origins, and the policies of the variable."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import HTTPConnection

from holdfast.errors import ConfigurationError, InvalidEvent, RedisUnavailable
from holdfast.settings import Settings
from holdfast.streams.access import (
    ALLOWED,
    FORBIDDEN,
    UNKNOWN,
    Action,
    PolicyError,
    Verdict,
    make_policy,
    says_otherwise,
    session_access,
    stream_token,
    token_of,
    verify_token,
)
from holdfast.streams.origins import origin_allowed
from holdfast.streams.publishing.publisher import RunPublisher
from holdfast.streams.stores.memory import MemoryEventStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD, NEW = "old-key-" + "o" * 24, "new-key-" + "n" * 24
NOW = 2_000_000_000.0


def settings(**values: Any) -> Settings:
    return Settings(**{"secret_key": [NEW], **values})


def connection(
    *, query: str = "", headers: dict[str, str] | None = None, session: Any = None
) -> HTTPConnection:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: dict[str, Any] = {
        "type": "http",
        "path": "/",
        "query_string": query.encode(),
        "headers": raw,
    }
    if session is not None:
        scope["session"] = session
    return HTTPConnection(scope)


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands at ``NOW`` where tokens are made."""
    monkeypatch.setattr("holdfast.streams.access.time.time", lambda: NOW)


# --- tokens -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(
    ("grant", "run_id", "action", "status"),
    [
        ({"run_id": "a"}, "a", "read", 200),
        ({"run_id": "a"}, "A", "read", 403),
        ({"run_id": "a"}, "ab", "read", 403),
        ({"run_id": "a"}, "a", "stop", 403),
        ({"run_id": "a"}, "a", "publish", 403),
        ({"run_id": "a", "actions": ["stop"]}, "a", "stop", 200),
        ({"run_id": "a", "actions": ["stop"]}, "a", "read", 403),
        ({"run_id": "a", "actions": {"read", "publish"}}, "a", "publish", 200),
        ({"run_id": "a:", "prefix": True}, "a:1", "read", 200),
        ({"run_id": "a:", "prefix": True}, "a:", "read", 200),
        ({"run_id": "a:", "prefix": True}, "ab", "read", 403),
        ({"run_id": "a:", "prefix": True}, "a", "read", 403),
        ({"run_id": "a:", "prefix": True}, "A:1", "read", 403),
        ({"run_id": "é/1"}, "é/1", "read", 200),
    ],
)
def test_a_token_opens_what_it_names_and_nothing_else(
    grant: dict[str, Any], run_id: str, action: Action, status: int
) -> None:
    token = stream_token(**grant, settings=settings())
    verdict = verify_token(token, run_id, action, (NEW,), NOW)
    assert verdict.status == status
    assert verdict.until == (NOW + 3600 if status == 200 else None)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(
    ("signed_by", "known", "status"),
    [
        ([OLD], (OLD,), 200),
        ([OLD], (NEW, OLD), 200),
        ([NEW, OLD], (NEW,), 200),
        ([NEW, OLD], (OLD,), 401),
        ([OLD], (NEW,), 401),
    ],
)
def test_the_newest_key_signs_and_every_known_one_verifies(
    signed_by: list[str], known: tuple[str, ...], status: int
) -> None:
    token = stream_token("a", settings=settings(secret_key=signed_by))
    assert verify_token(token, "a", "read", known, NOW).status == status


@pytest.mark.usefixtures("frozen")
def test_a_token_ends_at_its_time() -> None:
    token = stream_token("a", 10, settings=settings())
    assert verify_token(token, "a", "read", (NEW,), NOW + 9.9) == Verdict(200, NOW + 10)
    assert verify_token(token, "a", "read", (NEW,), NOW + 10) == UNKNOWN


@pytest.mark.usefixtures("frozen")
def test_what_was_tampered_with_proves_nothing() -> None:
    token = stream_token("a", settings=settings())
    for index in range(len(token) - 1):  # of the last character some bits mean nothing
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        assert verify_token(changed, "a", "read", (NEW,), NOW) == UNKNOWN, index
    for odd in ("", ".", token[:-5], token + "x" * 5000, "é" + token, token.partition(".")[0]):
        assert verify_token(odd, "a", "read", (NEW,), NOW) == UNKNOWN


def test_a_signature_of_another_purpose_opens_nothing() -> None:
    from hashlib import sha256

    from itsdangerous import URLSafeSerializer

    for claims, salt in (({"r": "a", "a": ["read"], "x": NOW * 2}, "other"), ({}, None)):
        serializer = URLSafeSerializer(
            NEW,
            salt=salt or "holdfast.stream.token",
            signer_kwargs={"digest_method": sha256, "key_derivation": "hmac"},
        )
        assert verify_token(serializer.dumps(claims), "a", "read", (NEW,), NOW) == UNKNOWN


@pytest.mark.parametrize(
    "values",
    [
        {"actions": []},
        {"actions": "read"},
        {"actions": ["write"]},
        {"actions": ["read", "x"]},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": float("nan")},
        {"ttl": float("inf")},
    ],
)
def test_a_token_that_grants_nothing_or_for_ever_is_not_made(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ttl|actions"):
        stream_token("a", settings=settings(), **values)


def test_a_token_for_a_run_that_cannot_exist_is_not_made() -> None:
    with pytest.raises(InvalidEvent):
        stream_token("{a}", settings=settings())
    with pytest.raises(InvalidEvent):
        stream_token("", prefix=True, settings=settings())


def test_with_redis_a_key_of_our_own_is_not_enough() -> None:
    with pytest.raises(ConfigurationError, match="HOLDFAST_SECRET_KEY"):
        stream_token("a", settings=Settings(redis_url="redis://127.0.0.1:1/0"))


def test_the_header_beats_the_query() -> None:
    both = connection(query="token=q", headers={"authorization": "Bearer  h "})
    assert token_of(both) == "h"
    assert token_of(connection(query="token=q")) == "q"
    assert token_of(connection(headers={"authorization": "bearer h"})) == "h"
    assert token_of(connection(query="token=q", headers={"authorization": "Basic x"})) == "q"
    assert token_of(connection()) is None


# --- origins ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "h", True),
        ("http://h", "h", True),
        ("http://h", "h:80", True),
        ("http://h:80", "h", True),
        ("https://h", "h", True),
        ("https://h", "h:443", True),
        ("https://h:443", "h", True),
        ("https://H.example", "h.EXAMPLE", True),
        ("http://h:8000", "h:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]", "[::1]", True),
        ("http://[::1]", "[::1]:80", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("https://h", "h:80", False),
        ("http://h", "h:443", False),
        ("http://h:8000", "h:8001", False),
        ("http://h:8000", "h", False),
        ("http://h", "g", False),
        ("http://h.evil", "h", False),
        ("http://evil.h", "h", False),
        ("http://[::1]:8000", "[::2]:8000", False),
        ("http://[::1", "[::1]", False),
        ("http://localhost:8000", "127.0.0.1:8000", False),
        ("null", "null", False),
        ("", "", False),
        ("file://", "", False),
        ("file://h", "h", False),
        ("chrome-extension://h", "h", False),
        ("http://h/path", "h", False),
        ("http://h?x", "h", False),
        ("http://user@h", "h", False),
        ("http://h", "user@h", False),
        ("http://h", "h/path", False),
        ("http://h:99999", "h:99999", False),
        ("http://h:x", "h:x", False),
        ("http://", "", False),
        ("h", "h", False),
    ],
)
def test_an_origin_is_ours_by_host_and_port(origin: str | None, host: str, allowed: bool) -> None:
    assert origin_allowed(origin, host, ()) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        ("https://app.example", ["https://app.example"], True),
        ("https://app.example:443", ["https://app.example"], True),
        ("https://app.example", ["https://APP.example:443"], True),
        ("http://app.example", ["https://app.example"], False),
        ("https://app.example:444", ["https://app.example"], False),
        ("https://x.app.example", ["https://app.example"], False),
        ("null", ["https://app.example"], False),
        ("https://anything", ["*"], True),
    ],
)
def test_other_origins_pass_where_they_are_named(
    origin: str, allowed: list[str], passes: bool
) -> None:
    assert origin_allowed(origin, "h", allowed) is passes


# --- policies -----------------------------------------------------------------------------------


class LiveSession:
    """What a policy needs of a session."""

    id_hash = "hash"

    def __init__(self, owner: str | None, id_hash: str = "hash") -> None:
        self.owner = owner
        self.id_hash = id_hash
        self.available, self.is_new, self.accessed = True, False, False

    def mark_accessed(self) -> None:
        self.accessed = True


@pytest.mark.anyio
async def test_a_token_bound_to_a_session_is_good_with_that_session_alone() -> None:
    policy = make_policy(settings(), MemoryEventStore())
    bound = stream_token("a", session=LiveSession(None, "mine"), settings=settings())
    free = stream_token("a", settings=settings())

    async def verdict(token: str, session: Any) -> int:
        asked = connection(query=f"token={token}", session=session)
        return (await policy(asked, "a", "read")).status

    mine = LiveSession(None, "mine")
    assert await verdict(free, mine) == 200
    assert not mine.accessed
    assert await verdict(bound, mine) == 200
    assert mine.accessed
    for other in (None, {}, LiveSession(None, "another's")):
        assert await verdict(bound, other) == 401
    mine.is_new = True
    assert await verdict(bound, mine) == 401
    mine.available = False
    with pytest.raises(RedisUnavailable):
        await verdict(bound, mine)


async def owned(owner: str | None) -> MemoryEventStore:
    store = MemoryEventStore()
    await RunPublisher("run", owner=owner, store=store).emit("t", 1)
    return store


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("owner", "session", "run_id", "allowed"),
    [
        ("user:1", LiveSession("user:1"), "run", True),
        ("session:hash", LiveSession("session:hash"), "run", True),
        ("session:hash", LiveSession("user:1"), "run", True),
        ("session:hash", LiveSession(None), "run", True),
        ("user:1", LiveSession("user:2"), "run", False),
        ("user:1", LiveSession(None), "run", False),
        ("session:other", LiveSession("user:1"), "run", False),
        (None, LiveSession("user:1"), "run", False),
        (None, LiveSession(None), "run", False),
        ("user:1", LiveSession("user:1"), "absent", False),
    ],
)
async def test_a_session_opens_the_runs_of_its_owner(
    owner: str | None, session: LiveSession, run_id: str, allowed: bool
) -> None:
    store = await owned(owner)
    asker = connection(session=session)
    assert await session_access(asker, run_id, "read", store=store) is allowed
    policy = make_policy(settings(stream_access="session"), store)
    assert await policy(asker, run_id, "read") == (ALLOWED if allowed else FORBIDDEN)
    # Reading is what a session opens.
    assert (await policy(asker, run_id, "stop")).status == 401


@pytest.mark.anyio
@pytest.mark.parametrize("run_id", ["run", "absent"])
async def test_without_a_session_nobody_has_said_who_is_asking(run_id: str) -> None:
    session = LiveSession(None)
    session.is_new = True
    policy = make_policy(settings(stream_access="session"), await owned("user:1"))
    assert await policy(connection(session=session), run_id, "read") == UNKNOWN


@pytest.mark.anyio
async def test_a_token_opens_a_run_to_a_stranger_of_its_session() -> None:
    store = await owned("user:1")
    policy = make_policy(settings(stream_access="session"), store)
    token = stream_token("run", settings=settings())
    asker = connection(query=f"token={token}", session=LiveSession("user:2"))
    assert (await policy(asker, "run", "read")).status == 200


@pytest.mark.anyio
@pytest.mark.parametrize("session", [None, {"a": "plain dict"}])
async def test_session_access_without_our_sessions_is_a_wrong_configuration(session: Any) -> None:
    with pytest.raises(ConfigurationError, match="SessionMiddleware"):
        await session_access(connection(session=session), "run", "read", store=MemoryEventStore())


@pytest.mark.anyio
async def test_session_access_asks_the_default_store_where_none_is_given() -> None:
    await RunPublisher("run", owner="user:1").emit("t", 1)
    assert await session_access(connection(session=LiveSession("user:1")), "run", "read")


@pytest.mark.anyio
async def test_the_token_policy_wants_a_token() -> None:
    policy = make_policy(settings(), MemoryEventStore())
    token = stream_token("run", settings=settings())
    assert await policy(connection(), "run", "read") == UNKNOWN
    assert (await policy(connection(query=f"token={token}"), "run", "read")).status == 200
    assert await policy(connection(query=f"token={token}"), "other", "read") == FORBIDDEN
    assert await policy(connection(query="token=forged"), "run", "read") == UNKNOWN


@pytest.mark.anyio
async def test_open_is_open_to_read_only() -> None:
    policy = make_policy(settings(stream_access="open"), MemoryEventStore())
    token = stream_token("run", actions=["publish"], settings=settings())
    assert await policy(connection(), "run", "read") == ALLOWED
    assert await policy(connection(), "run", "publish") == UNKNOWN
    by_token = await policy(connection(query=f"token={token}"), "run", "publish")
    assert by_token.status == 200


@pytest.mark.anyio
async def test_open_needs_no_key_even_with_redis() -> None:
    values = Settings(stream_access="open", redis_url="redis://127.0.0.1:1/0")
    policy = make_policy(values, MemoryEventStore())
    assert await policy(connection(), "run", "read") == ALLOWED
    assert await policy(connection(query="token=x"), "run", "stop") == UNKNOWN


async def asynchronous(asker: HTTPConnection, run_id: str, action: str) -> bool:
    return run_id == "run" and action == "read"


def synchronous(asker: HTTPConnection, run_id: str, action: str) -> bool:
    return run_id == "run" and action == "read"


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Put something where ``HOLDFAST_STREAM_ACCESS=policies_of_a_test:…`` finds it."""
    module = types.ModuleType("policies_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return lambda name, value: setattr(module, name, value)


@pytest.mark.anyio
@pytest.mark.parametrize("function", [asynchronous, synchronous])
async def test_a_callable_decides(
    policies: Callable[[str, Any], None], function: Callable[..., Any]
) -> None:
    policies("authorize", function)
    values = settings(stream_access="policies_of_a_test:authorize")
    policy = make_policy(values, MemoryEventStore())
    assert await policy(connection(), "run", "read") == ALLOWED
    assert await policy(connection(), "other", "read") == FORBIDDEN
    assert await policy(connection(), "run", "stop") == FORBIDDEN


async def test_a_callable_that_fails_lets_nobody_in_and_is_told_by_name(
    policies: Callable[[str, Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(connection: HTTPConnection, run_id: str, action: str) -> bool:
        raise KeyError("user")

    policies("fails", fails)
    policy = make_policy(settings(stream_access="policies_of_a_test:fails"), MemoryEventStore())
    with pytest.raises(PolicyError, match="policies_of_a_test:fails"):
        await policy(connection(), "run", "read")
    assert "HOLDFAST_STREAM_ACCESS=policies_of_a_test:fails failed" in caplog.text
    assert "KeyError: 'user'" in caplog.text


async def test_a_callable_that_cannot_ask_redis_has_not_failed(
    policies: Callable[[str, Any], None],
) -> None:
    async def waits(connection: HTTPConnection, run_id: str, action: str) -> bool:
        raise RedisUnavailable("timeout")

    policies("waits", waits)
    policy = make_policy(settings(stream_access="policies_of_a_test:waits"), MemoryEventStore())
    with pytest.raises(RedisUnavailable):
        await policy(connection(), "run", "read")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("no_such_module_at_all:authorize", "ModuleNotFoundError"),
        ("policies_of_a_test:missing", "has no 'missing'"),
        ("policies_of_a_test:value", "nothing that can be called"),
        ("tests.streams.a_policy_that_fails:authorize", "ZeroDivisionError"),
    ],
)
def test_a_callable_that_is_not_there_is_told_at_start(
    policies: Callable[[str, Any], None], path: str, told: str
) -> None:
    policies("value", 5)
    with pytest.raises(ConfigurationError, match=rf"HOLDFAST_STREAM_ACCESS.*{told}"):
        make_policy(settings(stream_access=path), MemoryEventStore())


_MAKES = """from holdfast import EventStreamApp, Settings
streams = EventStreamApp(settings=Settings(stream_access="a_module_of_a_test:authorize"))
"""
_DEFINES = """async def authorize(connection, run_id, action):
    return True
"""


@pytest.mark.parametrize("above", [True, False])
def test_a_callable_below_the_streams_in_their_module_is_told_to_stand_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: bool
) -> None:
    text = _DEFINES + _MAKES if above else _MAKES + _DEFINES
    (tmp_path / "a_module_of_a_test.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    told = pytest.raises(ConfigurationError, match=r"has no 'authorize'.* define it above")
    with contextlib.nullcontext() if above else told:
        importlib.import_module("a_module_of_a_test")
    sys.modules.pop("a_module_of_a_test", None)


@pytest.mark.parametrize(
    ("token", "otherwise"),
    [
        (stream_token("run", settings=settings()), False),
        (stream_token("other", settings=settings()), True),
        (stream_token("ru", prefix=True, settings=settings()), False),
        (stream_token("run:", prefix=True, settings=settings()), True),
        (stream_token("r" * 250, settings=settings()), False),
        ("", False),
        ("opaque", False),
        ("é", False),
        (".é.", False),
        ("W10.x", False),
        ("InIi.x", False),
        ("eyJhIjoxfQ.x", False),
        ("eyJyIjp7fX0.x", True),
        ("eyJyIjp7fX0" * 1000, False),
    ],
    # A token's length is that of the moment it is made at, and a long text is no name of a test.
    ids=itertools.count(),
)
def test_a_token_is_passed_over_only_if_it_says_that_it_is_for_another_run(
    token: str, otherwise: bool
) -> None:
    assert says_otherwise(token, "run") is otherwise


@pytest.mark.anyio
async def test_no_token_is_in_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    policy = make_policy(settings(), MemoryEventStore())
    good = stream_token("run", settings=settings())
    with caplog.at_level(logging.DEBUG):
        for token in (good, good + "x", good[:-3]):
            for run_id in ("run", "other"):
                await policy(connection(query=f"token={token}"), run_id, "read")
    assert good[:-3] not in caplog.text
    assert good not in repr(settings())
