"""The session as a dict, and which store is behind it by default."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import secrets
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from tests.sessions.browser import Browser, CountingStore, Doing

from holdfast.errors import ConfigurationError, SessionError
from holdfast.runtime import Runtime
from holdfast.sessions.choice import default_store
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.outage.fallback import FallbackSessionStore
from holdfast.sessions.session import Session
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.testing import RedisServer

SETTINGS = Settings(secret_key="a key of more than sixteen characters")


def test_it_is_a_dict_in_every_way() -> None:
    session = Session({"a": 1, "b": 2})
    assert session == {"a": 1, "b": 2}
    assert json.dumps(session) == '{"a": 1, "b": 2}'
    assert session.pop("a") == 1
    assert session.pop("a", 5) == 5
    with pytest.raises(KeyError):
        session.pop("a")
    assert session.setdefault("b", 9) == 2
    assert session.setdefault("c") is None
    session |= {"d": 4}
    session.update([("e", 5)], f=6)
    del session["c"]
    assert session.popitem() == ("f", 6)
    session.clear()
    with pytest.raises(KeyError):
        session.popitem()
    assert session == {}


@pytest.mark.parametrize(
    "read", [len, bool, list, dict, repr, lambda s: s.get("a"), lambda s: s.pop("x", 0)]
)
def test_reading_modifies_nothing(read: Any) -> None:
    session = Session({"a": 1})
    read(session)
    assert not session.modified
    assert session.available
    assert session.degraded is None


def test_a_copy_is_plain_data() -> None:
    session = Session({"a": [1]})
    for copied in (copy.copy(session), copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        assert type(copied) is dict
        assert copied == {"a": [1]}


@pytest.mark.anyio
async def test_made_by_hand_it_has_no_store() -> None:
    session = Session()
    for use in (session.regenerate_id, session.invalidate, lambda: session.id_hash):
        with pytest.raises(SessionError, match="made by hand"):
            use()
    with pytest.raises(SessionError, match="made by hand"):
        await session.save()


@pytest.mark.anyio
async def test_two_sessions_forced_onto_one_id_become_two(monkeypatch: pytest.MonkeyPatch) -> None:
    doing, store = Doing(), CountingStore()
    app = SessionMiddleware(doing, settings=SETTINGS, store=store)
    browsers = [Browser(app), Browser(app)]
    real, forced = secrets.token_urlsafe, ["L" * 24, "S" * 32, "L" * 24, "T" * 32]
    monkeypatch.setattr(
        secrets, "token_urlsafe", lambda size: forced.pop(0) if forced else real(size)
    )
    numbers = iter(range(2))
    doing.handle = lambda session: session.update(n=next(numbers))
    for browser in browsers:
        await browser.get()
    assert store.told() == ["create", "create", "create"]
    doing.handle = dict
    assert [(await each.get()).body for each in browsers] == [b"{'n': 0}", b"{'n': 1}"]


@pytest.mark.anyio
async def test_a_broken_random_source_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    doing = Doing()
    app = SessionMiddleware(doing, settings=SETTINGS, store=MemorySessionStore())
    doing.handle = lambda session: session.update(a=1)
    counter = iter(range(100))
    monkeypatch.setattr(
        secrets,
        "token_urlsafe",
        lambda size: "L" * 24 if size == 18 else f"{next(counter):032}",
    )
    await Browser(app).get()
    with pytest.raises(SessionError, match="every new session id"):
        await Browser(app).get()


@pytest.mark.anyio
@pytest.mark.parametrize("garbage", [b"\x80\x04K\x01.", b"{", b"NaN"])
async def test_a_corrupt_session_reads_as_empty_and_stays_where_it_is(
    redis: RedisServer, key_prefix: str, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisSessionStore(Settings(redis_url=redis.url, key_prefix=key_prefix))
    doing = Doing()
    browser = Browser(SessionMiddleware(doing, settings=SETTINGS, store=store))
    doing.handle = lambda session: (session.update(a=1), session.id_hash)[1]
    name = f"{key_prefix}session:{(await browser.get()).body.decode()[1:-1]}"
    old = dict(browser.cookies)
    redis.execute("HSET", name, "a", garbage)
    doing.handle = dict
    answer = await browser.get()
    assert (answer.status, answer.body, answer.set_cookie) == (200, b"{}", None)
    assert "corrupt" in caplog.text
    assert browser.cookies["session"][:24] not in caplog.text
    redis.execute("SET", name, "garbage")
    assert (await browser.get()).body == b"{}"
    doing.handle = lambda session: session.update(a=2)
    assert (await browser.get()).set_cookie is not None
    assert browser.cookies != old
    assert redis.execute("GET", name) == b"garbage"


@pytest.mark.anyio
async def test_a_session_overwritten_between_load_and_save_is_gone(
    redis: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisSessionStore(Settings(redis_url=redis.url, key_prefix=key_prefix))
    doing = Doing()
    browser = Browser(SessionMiddleware(doing, settings=SETTINGS, store=store))
    doing.handle = lambda session: session.update(a=1)
    await browser.get()

    def overwrite(session: Session) -> None:
        redis.execute("SET", f"{key_prefix}session:{session.id_hash}", "garbage")
        session["b"] = 2

    doing.handle = overwrite
    answer = await browser.get()
    assert (answer.status, answer.set_cookie) == (200, None)
    assert "corrupt" in caplog.text


# --- which store -------------------------------------------------------------------------------


def test_the_store_is_chosen_once_per_runtime(free_port: int) -> None:
    url = f"redis://127.0.0.1:{free_port}"
    memory = Runtime(Settings())
    assert isinstance(default_store(memory), MemorySessionStore)
    assert default_store(memory) is default_store(memory)
    for kind in ("auto", "redis"):
        runtime = Runtime(Settings(redis_url=url, session_store=kind))
        assert isinstance(default_store(runtime), FallbackSessionStore)
    runtime = Runtime(Settings(redis_url=url, session_store="memory"))
    assert isinstance(default_store(runtime), MemorySessionStore)


def test_memory_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(Settings())
    for _ in range(3):
        default_store(runtime)
    assert caplog.text.count("HOLDFAST_REDIS_URL") == 1


@pytest.mark.parametrize(
    ("url", "store", "remedy"),
    [
        (None, "auto", "Set HOLDFAST_REDIS_URL to share"),
        (None, "memory", "Set HOLDFAST_REDIS_URL and unset HOLDFAST_SESSION_STORE to share"),
        ("redis://localhost", "memory", "Unset HOLDFAST_SESSION_STORE to share"),
    ],
)
def test_memory_is_told_with_what_would_change_it(
    caplog: pytest.LogCaptureFixture, url: str | None, store: str, remedy: str
) -> None:
    default_store(Runtime(Settings(redis_url=url, session_store=store)))
    assert remedy in caplog.text


def test_memory_for_several_workers_is_refused_unless_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    with pytest.raises(ConfigurationError, match="4 worker processes"):
        default_store(Runtime(Settings()))
    default_store(Runtime(Settings(session_store="memory")))
    monkeypatch.undo()


def factory(settings: Settings) -> MemorySessionStore:
    return MemorySessionStore(max_sessions=settings.session_max_bytes)


def test_a_store_of_ones_own_is_named_by_its_path() -> None:
    path = "tests.sessions.test_session:factory"
    store = default_store(Runtime(Settings(session_store=path, session_max_bytes=7)))
    assert repr(store) == "<MemorySessionStore 0 of 7 sessions>"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere.at.all:x", "nowhere"),
        ("json:nothing", "nothing"),
        ("builtins:repr", "str"),
        ("json:__name__", "str"),
        ("os:getcwd", "failed: TypeError: .*getcwd"),
    ],
)
def test_a_path_that_leads_to_no_store_is_told(path: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"HOLDFAST_SESSION_STORE={path}.*{told}"):
        default_store(Runtime(Settings(session_store=path)))


def test_a_module_that_fails_is_told_where_a_store_is_sought_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_of_a_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match="cannot be imported: ZeroDivisionError"):
        default_store(Runtime(Settings(session_store="failing_of_a_test:factory")))


_SHOP = """from holdfast import Settings
from holdfast.runtime import Runtime
from holdfast.sessions.choice import default_store
default_store(Runtime(Settings(session_store="{module}_of_a_test:factory")))
SIZE = 7
"""
_FACTORY = """from holdfast import MemorySessionStore
def factory(settings):
    return MemorySessionStore()
"""
_IMPORTS_SHOP = "from shop_of_a_test import SIZE\n"


@pytest.mark.parametrize(
    ("shop", "stores", "told"),
    [
        (_FACTORY + _SHOP.format(module="shop"), "", None),
        (_SHOP.format(module="shop") + _FACTORY, "", "above the line that makes the sessions"),
        (_SHOP.format(module="stores"), _FACTORY, None),
        (_SHOP.format(module="stores"), _IMPORTS_SHOP + _FACTORY, "in a module of its own"),
    ],
    ids=["above", "below", "own module", "own module that imports the application"],
)
def test_a_factory_that_is_not_there_yet_is_told_where_to_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: str, stores: str, told: str | None
) -> None:
    (tmp_path / "shop_of_a_test.py").write_text(shop)
    (tmp_path / "stores_of_a_test.py").write_text(stores)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with pytest.raises(ConfigurationError, match=told) if told else nullcontext():
            importlib.import_module("shop_of_a_test")
    finally:
        for name in ("shop_of_a_test", "stores_of_a_test"):
            sys.modules.pop(name, None)
