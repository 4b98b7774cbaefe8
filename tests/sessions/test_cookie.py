"""The cookie: what we sign is believed, nothing else, and nothing foreign comes back out."""

from __future__ import annotations

import hashlib
import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import Signer

from holdfast.sessions.cookie import (
    SALT,
    CookieAttributes,
    CookieSigner,
    Credential,
    NoCredential,
    Presented,
    candidates,
    new_credential,
)

KEY, OLD_KEY = "new key of the server", "old key of the server"
signer = CookieSigner([KEY])


def signed(credential: Credential | None = None) -> bytes:
    return signer.sign(credential or new_credential()).encode()


def test_what_was_signed_is_believed() -> None:
    credential = new_credential()
    assert signer.choose([signed(credential)]) == Presented(credential, old_key=False)


def test_a_hundred_thousand_ids_differ_and_have_128_bits() -> None:
    made = {new_credential() for _ in range(100_000)}
    assert len({each.locator for each in made}) == len({each.secret for each in made}) == 100_000
    alphabet = set(string.ascii_letters + string.digits + "-_")
    for each in list(made)[:100]:
        assert set(each.locator + each.secret) <= alphabet
        assert len(each.locator) * 6 >= 128
        assert len(each.secret) * 6 >= 128


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_makes_other_ids() -> None:
    new_credential()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, new_credential().locator.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() != new_credential().locator
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"a" * 10_240,
        b"../../x",
        b"a:b*?[",
        b"a\r\nSet-Cookie: x=y",
        b"a\x00b",
        "ünïcödé".encode(),
        b"\xff\xfe",
        b"null",
        rb'"x\073 domain=evil"',
        b"a" * 101,
        b"a" * 57 + b"." + b"b" * 43,
    ],
)
def test_what_we_did_not_sign_is_invalid(value: bytes) -> None:
    assert signer.choose([value]) is NoCredential.INVALID


def test_what_is_known_again_is_what_was_proved_and_not_without_end() -> None:
    one = CookieSigner([KEY])
    visitors = [new_credential() for _ in range(1200)]
    for credential in visitors * 2:
        presented = one.verify(one.sign(credential).encode())
        assert presented is not None
        assert presented.credential == credential
    assert len(one._known) <= 1024
    known = one.sign(visitors[-1]).encode()
    assert one.verify(known[:-1] + bytes([known[-1] ^ 1])) is None


@given(st.integers(0, 100), st.integers(0, 7))
def test_one_flipped_bit_is_never_believed_as_another_session(position: int, bit: int) -> None:
    credential = new_credential()
    value = bytearray(signed(credential))
    value[position] ^= 1 << bit
    answer = signer.choose([bytes(value)])
    # The last character of a signature has spare bits; what was signed is the same then.
    assert answer in (NoCredential.INVALID, Presented(credential, old_key=False))
    assert position >= 58 or answer is NoCredential.INVALID


def test_something_else_that_we_signed_is_no_session() -> None:
    for payload in (b"a" * 57, b"a" * 24 + b"." + b"!" * 32, b"." * 57):
        ours = Signer(KEY, salt=SALT, key_derivation="hmac", digest_method=hashlib.sha256)
        assert signer.choose([ours.sign(payload)]) is NoCredential.INVALID


def test_a_token_signed_for_another_purpose_is_no_session() -> None:
    credential = new_credential()
    other = Signer(KEY, salt=b"other", key_derivation="hmac", digest_method=hashlib.sha256)
    value = other.sign(f"{credential.locator}.{credential.secret}")
    assert signer.choose([value]) is NoCredential.INVALID


def test_an_old_key_is_believed_and_told_and_a_removed_one_is_not() -> None:
    credential = new_credential()
    by_old = CookieSigner([OLD_KEY]).sign(credential).encode()
    both = CookieSigner([KEY, OLD_KEY])
    assert both.choose([by_old]) == Presented(credential, old_key=True)
    assert both.choose([signed(credential)]) == Presented(credential, old_key=False)
    assert signer.choose([by_old]) is NoCredential.INVALID
    assert both.sign(credential) == signer.sign(credential)


@pytest.mark.parametrize("keys", [[], [""], ["a", ""]])
def test_an_empty_key_signs_nothing(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="key"):
        CookieSigner(keys)


def test_every_candidate_is_verified_and_two_different_ones_are_not_believed() -> None:
    mine, foreign = new_credential(), new_credential()
    for tossed in (b"rubbish", b""):
        assert isinstance(signer.choose([tossed, signed(mine)]), Presented)
        assert isinstance(signer.choose([signed(mine), tossed]), Presented)
    assert signer.choose([signed(mine), signed(foreign)]) is NoCredential.AMBIGUOUS
    assert signer.choose([signed(mine), signed(mine.rotated())]) is NoCredential.AMBIGUOUS
    assert signer.choose([signed(mine), signed(mine)]) == Presented(mine, old_key=False)
    assert signer.choose([]) is NoCredential.NO_COOKIE


def test_the_same_session_under_two_keys_needs_no_new_signature() -> None:
    both, mine = CookieSigner([KEY, OLD_KEY]), new_credential()
    by_old = CookieSigner([OLD_KEY]).sign(mine).encode()
    for values in ([by_old, signed(mine)], [signed(mine), by_old]):
        assert both.choose(values) == Presented(mine, old_key=False)


def test_cookies_of_our_name_are_found_wherever_they_stand() -> None:
    headers = [
        (b"host", b"session=no"),
        (b"cookie", b"a=b; session=one;session=two ; xsession=no; session"),
        (b"cookie", b"other=session"),
        (b"cookie", b" session =  three=3"),
    ]
    assert candidates(headers, b"session") == [b"one", b"two", b"", b"three=3"]
    assert candidates([], b"session") == []


def test_a_rotated_credential_keeps_its_place_and_its_id() -> None:
    old = new_credential()
    new = old.rotated()
    assert new.locator == old.locator
    assert new.secret != old.secret
    assert new.key.id_hash == old.key.id_hash
    assert new.key.id_hash == hashlib.sha256(old.locator.encode()).hexdigest()
    assert new.key.secret_hash != old.key.secret_hash


def test_no_repr_shows_a_credential() -> None:
    presented = Presented(new_credential(), old_key=False)
    assert presented.credential.locator not in repr(presented)
    assert presented.credential.secret not in repr(presented)


def test_the_headers_are_written_as_starlette_writes_them() -> None:
    plain = CookieAttributes()
    expected = b"session=v; path=/; Max-Age=60; httponly; samesite=lax"
    assert plain.set_header("v", 60) == expected
    assert plain.set_header("v", None) == b"session=v; path=/; httponly; samesite=lax"
    assert plain.set_header("v", 0) == b"session=v; path=/; Max-Age=0; httponly; samesite=lax"


def test_a_removal_repeats_what_browsers_look_a_cookie_up_by() -> None:
    full = CookieAttributes(
        name="__Secure-s",
        path="/app",
        domain="example.com",
        same_site="none",
        https_only=True,
        partitioned=True,
    )
    flags = b"httponly; samesite=none; secure; domain=example.com; partitioned"
    assert full.set_header("v", 60) == b"__Secure-s=v; path=/app; Max-Age=60; " + flags
    removal = b"__Secure-s=null; path=/app; expires=Thu, 01 Jan 1970 00:00:00 GMT; "
    assert full.remove_header() == removal + flags
