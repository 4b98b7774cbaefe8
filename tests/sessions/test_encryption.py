"""Session data at rest: what is readable where, under which key, and what is refused."""

from __future__ import annotations

import os
import secrets
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sessions.browser import Browser, Doing, app_of

from holdfast.errors import ConfigurationError, CorruptData
from holdfast.runtime import runtime
from holdfast.sessions.choice import default_store
from holdfast.sessions.doors.asgi import SessionMiddleware
from holdfast.sessions.store import Change, Missing, Outcome, Record, SessionKey, SessionStore
from holdfast.sessions.stores.encryption import (
    EncryptedSessionStore,
    FieldCipher,
    encrypted,
    is_sealed,
)
from holdfast.sessions.stores.memory import MemorySessionStore
from holdfast.sessions.stores.redis import RedisSessionStore
from holdfast.settings import Settings
from holdfast.testing.session_store import SessionStoreSuite, new_key

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.testing import RedisServer

SECRET = "a key of more than sixteen characters"
NEW, OLD = "the newest key of this deployment", "the key that was used before"
DAY = 86400.0


@pytest.fixture(params=["memory", "redis"])
def inner(request: pytest.FixtureRequest, key_prefix: str) -> SessionStore:
    """What lies below: whose fields are what a thief of the store would have."""
    if request.param == "memory":
        return MemorySessionStore()
    redis: RedisServer = request.getfixturevalue("redis")
    return RedisSessionStore(Settings(redis_url=redis.url, key_prefix=key_prefix))


async def stored(store: SessionStore, key: SessionKey) -> dict[str, bytes]:
    found = await store.load(key)
    assert isinstance(found, Record)
    return dict(found.fields)


# --- the cipher -----------------------------------------------------------------------------------


@given(data=st.binary(max_size=200), name=st.text(max_size=20).filter(str.isprintable))
def test_what_is_sealed_opens_to_the_same_bytes(data: bytes, name: str) -> None:
    cipher = FieldCipher([NEW]).of("ab" * 32)
    sealed = cipher.seal(name, data)
    assert is_sealed(sealed)
    assert len(sealed) == len(data) + 33
    assert cipher.open(name, sealed) == data


def test_equal_values_are_sealed_differently() -> None:
    cipher = FieldCipher([NEW]).of("ab" * 32)
    assert len({cipher.seal("a", b"true") for _ in range(100)}) == 100


def test_two_sessions_have_no_key_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    # Under one key the same nonce gives the same ciphertext, but for the tag at its end.
    monkeypatch.setattr(os, "urandom", bytes)
    ciphers = FieldCipher([NEW])
    one, again, other = (ciphers.of(each * 32).seal("a", b"12345") for each in ("ab", "ab", "cd"))
    assert one == again
    assert one[:17] == other[:17]
    assert one[17:-16] != other[17:-16]


def test_a_value_opens_in_no_other_session_and_under_no_other_key() -> None:
    ciphers = FieldCipher([NEW])
    sealed = ciphers.of("ab" * 32).seal("is_admin", b"true")
    for cipher, name in ((ciphers.of("cd" * 32), "is_admin"), (ciphers.of("ab" * 32), "is_adult")):
        with pytest.raises(CorruptData, match="was changed, or belongs elsewhere") as caught:
            cipher.open(name, sealed)
        assert "true" not in str(caught.value)


@pytest.mark.parametrize("position", [0, 1, 4, 5, 16, 17, -1])
def test_no_byte_of_a_sealed_value_can_be_changed(position: int) -> None:
    cipher = FieldCipher([NEW]).of("ab" * 32)
    sealed = bytearray(cipher.seal("a", b"12345"))
    sealed[position] ^= 1
    if position == 0:
        assert not is_sealed(bytes(sealed))
        return
    with pytest.raises(CorruptData):
        cipher.open("a", bytes(sealed))


def test_a_sealed_value_cut_anywhere_is_corrupt() -> None:
    cipher = FieldCipher([NEW]).of("ab" * 32)
    sealed = cipher.seal("a", b"12345")
    for length in range(1, len(sealed)):
        with pytest.raises(CorruptData):
            cipher.open("a", sealed[:length])


def test_every_key_of_the_list_opens_and_the_first_seals() -> None:
    before = FieldCipher([OLD]).of("ab" * 32).seal("a", b"1")
    both = FieldCipher([NEW, OLD]).of("ab" * 32)
    assert both.open("a", before) == b"1"
    assert not both.is_current(before)
    after = both.seal("a", b"1")
    assert both.is_current(after)
    assert FieldCipher([NEW]).of("ab" * 32).open("a", after) == b"1"
    with pytest.raises(CorruptData, match="not in HOLDFAST_SESSION_ENCRYPTION_KEY"):
        FieldCipher([OLD]).of("ab" * 32).open("a", after)


def test_a_cipher_shows_no_key_and_needs_one() -> None:
    cipher = FieldCipher([NEW, OLD])
    assert repr(cipher) == "<FieldCipher of 2 keys>"
    for keys in ([], [""], [NEW, ""]):
        with pytest.raises(ValueError, match="at least one key"):
            FieldCipher(keys)


# --- the store ------------------------------------------------------------------------------------


class TestOverMemory(SessionStoreSuite):
    async def make_store(self) -> SessionStore:
        return EncryptedSessionStore(MemorySessionStore(), [NEW, OLD], strict=True)


class TestOverRedis(SessionStoreSuite):
    @pytest.fixture(autouse=True)
    def _redis(self, redis: RedisServer, key_prefix: str) -> None:
        self.settings = Settings(redis_url=redis.url, key_prefix=key_prefix)

    async def make_store(self) -> SessionStore:
        return EncryptedSessionStore(RedisSessionStore(self.settings), [NEW])


@pytest.mark.anyio
async def test_the_store_below_sees_no_value(inner: SessionStore) -> None:
    store, key = EncryptedSessionStore(inner, [NEW]), new_key()
    await store.create(key, {"card": b'"4111 1111"', "n": b"1"}, max_age=DAY)
    await store.save(key, Change({"iban": b'"DE02 1203"'}, ("n",)))
    below = await stored(inner, key)
    assert sorted(below) == ["card", "iban"]
    assert all(map(is_sealed, below.values()))
    assert not any(part in data for data in below.values() for part in (b"4111", b"DE02"))
    assert await stored(store, key) == {"card": b'"4111 1111"', "iban": b'"DE02 1203"'}


@pytest.mark.anyio
async def test_two_fields_or_two_sessions_swapped_are_corrupt(inner: SessionStore) -> None:
    store, mine, theirs = EncryptedSessionStore(inner, [NEW]), new_key(), new_key()
    for key in (mine, theirs):
        await store.create(key, {"user_id": b"7", "is_admin": b"false"}, max_age=DAY)
    fields = await stored(inner, theirs)
    await inner.save(mine, Change({"user_id": fields["user_id"]}))
    await inner.save(theirs, Change({"is_admin": fields["user_id"]}))
    for key in (mine, theirs):
        with pytest.raises(CorruptData, match="belongs elsewhere"):
            await store.load(key)


@pytest.mark.anyio
@pytest.mark.parametrize("before", [None, OLD])
async def test_a_write_renews_all_that_is_plain_or_of_an_older_key(
    inner: SessionStore, before: str | None
) -> None:
    key = new_key()
    earlier = inner if before is None else EncryptedSessionStore(inner, [before])
    await earlier.create(key, {"a": b"1", "b": b"2", "c": b"3"}, max_age=DAY)
    store = EncryptedSessionStore(inner, [NEW, OLD])
    assert await stored(store, key) == {"a": b"1", "b": b"2", "c": b"3"}
    assert await store.save(key, Change({"a": b"4"}, ("c",))) is Outcome.DONE
    newest = EncryptedSessionStore(inner, [NEW], strict=True)
    assert await stored(newest, key) == {"a": b"4", "b": b"2"}


@pytest.mark.anyio
async def test_renewing_does_not_undo_what_another_process_wrote(inner: SessionStore) -> None:
    key = new_key()
    await inner.create(key, {"a": b"1", "b": b"2", "c": b"3"}, max_age=DAY)
    here, there = (EncryptedSessionStore(inner, [NEW]) for _ in range(2))
    await here.load(key)
    await there.load(key)
    await there.save(key, Change({"b": b"20"}, ("c",)))
    await here.save(key, Change({"a": b"10"}))
    assert await stored(here, key) == {"a": b"10", "b": b"20"}


@pytest.mark.anyio
async def test_strict_takes_plain_text_for_corrupt(inner: SessionStore) -> None:
    key = new_key()
    await inner.create(key, {"a": b"1"}, max_age=DAY)
    with pytest.raises(CorruptData, match="plain text, which HOLDFAST_SESSION_ENCRYPTION_STRICT"):
        await EncryptedSessionStore(inner, [NEW], strict=True).load(key)


@pytest.mark.anyio
async def test_what_is_to_be_renewed_is_remembered_for_some_sessions_only() -> None:
    inner = MemorySessionStore()
    store, keys = EncryptedSessionStore(inner, [NEW]), [new_key() for _ in range(600)]
    for key in keys:
        await inner.create(key, {"a": b"1", "b": b"2"}, max_age=DAY)
        await store.load(key)
    assert len(store._outdated) == 512
    for key in (keys[0], keys[-1]):
        await store.save(key, Change({"a": b"3"}))
        assert await stored(store, key) == {"a": b"3", "b": b"2"}
    assert not is_sealed((await stored(inner, keys[0]))["b"])
    assert is_sealed((await stored(inner, keys[-1]))["b"])


# --- turned on by a variable ----------------------------------------------------------------------


def configured(**arguments: Any) -> Settings:
    arguments.setdefault("session_encryption_key", NEW)
    return Settings(secret_key=SECRET, session_store="memory", **arguments)


@pytest.mark.anyio
async def test_the_variable_encrypts_the_default_store_and_one_passed_in() -> None:
    store = default_store(runtime(configured()))
    assert isinstance(store, EncryptedSessionStore)
    assert isinstance(store.inner, MemorySessionStore)
    assert repr(store).startswith("<EncryptedSessionStore of <MemorySessionStore")
    assert encrypted(store, configured()) is store
    inner = MemorySessionStore()
    assert encrypted(inner, Settings(environ={})) is inner

    doing = Doing()
    doing.handle = lambda session: session.update(a="a secret")
    browser = Browser(SessionMiddleware(doing, settings=configured(), store=inner))
    assert (await browser.get()).set_cookie
    assert [is_sealed(d) for e in inner._entries.values() for d in e.record.fields.values()] == [
        True
    ]
    doing.handle = dict
    assert (await browser.get()).body == b"{'a': 'a secret'}"


@pytest.mark.anyio
async def test_the_size_limit_judges_what_the_handler_wrote() -> None:
    settings = configured(session_max_bytes=100)
    app = app_of(lambda session: session.update(a="x" * 97))
    browser = Browser(SessionMiddleware(app, settings=settings, store=MemorySessionStore()))
    assert (await browser.get()).status == 200
    assert browser.cookies


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("then", "told"),
    [
        ({"session_encryption_key": OLD}, "encrypted with a key that is not in"),
        ({"session_encryption_key": ()}, "is not JSON"),
    ],
)
async def test_without_the_right_key_a_session_is_told_as_corrupt_and_reads_as_absent(
    then: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    inner, doing = MemorySessionStore(), Doing()
    doing.handle = lambda session: session.update(user_id=7)
    browser = Browser(SessionMiddleware(doing, settings=configured(), store=inner))
    await browser.get()
    doing.handle = dict
    later = SessionMiddleware(doing, settings=configured(**then), store=inner)
    answer = await Browser(later, browser.cookies).get()
    assert (answer.status, answer.body, answer.set_cookie) == (200, b"{}", None)
    assert [record.levelname for record in caplog.records if told in record.message] == ["ERROR"]
    assert (await browser.get()).body == b"{'user_id': 7}"


@pytest.mark.anyio
async def test_what_an_outage_leaves_in_memory_is_encrypted_too(
    fresh_redis: RedisServer, tmp_path: Path
) -> None:
    settings = Settings(
        secret_key=SECRET, redis_url=fresh_redis.url, session_encryption_key=NEW, redis_timeout=5
    )
    store = default_store(runtime(settings))
    assert isinstance(store, EncryptedSessionStore)
    key, born = new_key(), new_key()
    await store.create(key, {"a": b'"seen before"'}, max_age=DAY)
    fresh_redis.kill()
    assert await store.save(key, Change({"b": b'"written then"'})) is Outcome.DONE
    assert await store.create(born, {"c": b'"born then"'}, max_age=DAY) is Outcome.DONE
    entries = store.inner._known._journal._entries  # type: ignore[attr-defined]
    kept = [data for each in entries.values() for data in each.record.fields.values()]
    assert len(kept) == 3
    assert all(map(is_sealed, kept))
    found = await store.load(key)
    assert isinstance(found, Record)
    assert found.degraded == "stale"
    assert dict(found.fields) == {"a": b'"seen before"', "b": b'"written then"'}
    assert await store.load(born) is not Missing.ABSENT


def test_a_missing_package_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r'pip install "holdfast\[crypto\]"'):
        default_store(runtime(configured()))


def test_a_key_that_can_be_guessed_is_refused_and_not_shown() -> None:
    short = secrets.token_urlsafe(6)
    with pytest.raises(ConfigurationError, match="at least 16 characters") as caught:
        configured(session_encryption_key=short)
    assert short not in str(caught.value)
