"""Session data at rest that only the holder of a key can read: ``HOLDFAST_SESSION_ENCRYPTION_KEY``.

The cipher is pure: bytes in, bytes out. The store around another one seals what goes in and opens
what comes out, so that Redis, its replicas and dumps, and the copies and the journal of an outage
hold ciphertext. It decides nothing about sessions. Ids, lifetimes and the names of keys stay
readable: stores work on them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from holdfast.errors import ConfigurationError, CorruptData
from holdfast.forks import watch_forks
from holdfast.sessions.store import Change, Missing, Outcome, Record, SessionKey, SessionStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from holdfast.settings import Settings

# The first byte of what is sealed: no JSON text begins with a control character.
_SEALED = b"\x01"
_KEY_ID_BYTES, _NONCE_BYTES, _TAG_BYTES = 4, 12, 16
_HEAD = len(_SEALED) + _KEY_ID_BYTES
_SALT = b"holdfast.session.encryption"
_PURPOSE = b"holdfast.session.field\x00"
# Sessions between their load and their save whose values are to be sealed anew; one that falls out
# is sealed anew at a later save.
_MAX_OUTDATED = 512


class FieldCipher:
    """Seals the values of sessions: AES-256-GCM, with a key of each session's own.

    A sealed value is bound to its session and key: in another place it does not open. It is one
    byte of version, the id of the key (4 bytes), a random nonce (12), the ciphertext and its
    tag (16).

    Args:
        keys: newest first. The first seals, all open.

    Raises:
        ConfigurationError: the package ``cryptography`` is not installed.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or not all(keys):
            raise ValueError("a cipher needs at least one key, and none may be empty")
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigurationError(
                "HOLDFAST_SESSION_ENCRYPTION_KEY needs the package cryptography: "
                'pip install "holdfast[crypto]"'
            ) from error
        self._aead = AESGCM
        roots = [_extracted(key) for key in keys]
        self._newest = _key_id(roots[0])
        # The first of two equal ids wins, as the newer key does.
        self._roots = {_key_id(root): root for root in reversed(roots)}

    def __repr__(self) -> str:
        return f"<FieldCipher of {len(self._roots)} keys>"

    def of(self, id_hash: str) -> SessionCipher:
        """Return the cipher of one session."""
        return SessionCipher(self._roots, self._newest, self._aead, id_hash)


class SessionCipher:
    """Seals and opens the values of one session. Made by :meth:`FieldCipher.of`."""

    def __init__(
        self, roots: Mapping[bytes, bytes], newest: bytes, aead: type[AESGCM], id_hash: str
    ) -> None:
        self._roots = roots
        self._newest = newest
        self._make = aead
        self._id = id_hash.encode()
        self._ready: dict[bytes, AESGCM] = {}

    def seal(self, name: str, data: bytes) -> bytes:
        """Return *data*, the value of key *name*, encrypted with the newest key."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._aead(self._newest).encrypt(nonce, data, self._bound_to(name))
        return b"".join((_SEALED, self._newest, nonce, sealed))

    def open(self, name: str, data: bytes) -> bytes:
        """Return what :meth:`seal` made *data* of.

        Raises:
            CorruptData: no key of the list opens it, or it was made for another place. The message
                holds nothing of the data.
        """
        key_id, nonce = data[1:_HEAD], data[_HEAD : _HEAD + _NONCE_BYTES]
        if key_id not in self._roots:
            raise CorruptData(
                f"the stored value of session[{name!r}] is encrypted with a key that is not in "
                "HOLDFAST_SESSION_ENCRYPTION_KEY"
            )
        if len(data) < _HEAD + _NONCE_BYTES + _TAG_BYTES:
            raise CorruptData(f"the stored value of session[{name!r}] is cut off")
        try:
            sealed = data[_HEAD + _NONCE_BYTES :]
            return self._aead(key_id).decrypt(nonce, sealed, self._bound_to(name))
        except _invalid_tag():
            raise CorruptData(
                f"the stored value of session[{name!r}] was changed, or belongs elsewhere"
            ) from None

    def is_current(self, data: bytes) -> bool:
        """Whether *data* is sealed with the newest key."""
        return data[:_HEAD] == _SEALED + self._newest

    def _bound_to(self, name: str) -> bytes:
        # The id is hexadecimal and of one length, so no two pairs are spelled alike.
        return _PURPOSE + self._id + b"\x00" + name.encode()

    def _aead(self, key_id: bytes) -> AESGCM:
        found = self._ready.get(key_id)
        if found is None:
            # A key for each session keeps random nonces far from meeting (NIST SP 800-38D, 8.3:
            # at most 2**32 messages a key).
            key = _expanded(self._roots[key_id], _PURPOSE + self._id)
            found = self._ready[key_id] = self._make(key)
        return found


def is_sealed(data: bytes) -> bool:
    """Whether a stored value is encrypted, with whatever key."""
    return data.startswith(_SEALED)


class EncryptedSessionStore(SessionStore):
    """Any other store, with the values of its sessions encrypted.

    Sessions in plain text, and those sealed with an older key, are read; their next write renews
    all of them, with the newest key.

    Args:
        store: where the sessions are kept.
        keys: newest first.
        strict: take plain text for corrupt. Else whoever can write to the store can put it there.

    Raises:
        ConfigurationError: the package ``cryptography`` is not installed.
    """

    def __init__(self, store: SessionStore, keys: Sequence[str], *, strict: bool = False) -> None:
        self.inner = store
        self._cipher = FieldCipher(keys)
        self._strict = strict
        self._outdated: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        self.forked()
        watch_forks(self)

    def forked(self) -> None:
        """Begin, also in a forked child: whoever held the lock may not exist there."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<EncryptedSessionStore of {self.inner!r}>"

    @property
    def waits_in_place(self) -> bool:
        """As the store inside."""
        return self.inner.waits_in_place

    @property
    def writable(self) -> bool:
        """Whether a write has any prospect now."""
        return self.inner.writable

    async def load(self, key: SessionKey, *, idle_timeout: float = 0.0) -> Record | Missing:
        """See :meth:`SessionStore.load`.

        Raises:
            CorruptData: a value does not open with any of the keys, or is plain text and that is
                refused.
        """
        found = await self.inner.load(key, idle_timeout=idle_timeout)
        if isinstance(found, Missing):
            return found
        return found._replace(fields=self._opened(key.id_hash, found.fields))

    def _opened(self, id_hash: str, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        cipher = self._cipher.of(id_hash)
        opened, outdated = {}, {}
        for name, data in fields.items():
            opened[name] = self._opened_one(cipher, name, data)
            if not cipher.is_current(data):
                outdated[name] = data
        if outdated:
            self._remember(id_hash, outdated)
        return opened

    def _opened_one(self, cipher: SessionCipher, name: str, data: bytes) -> bytes:
        if is_sealed(data):
            return cipher.open(name, data)
        if self._strict:
            raise CorruptData(
                f"the stored value of session[{name!r}] is plain text, which "
                "HOLDFAST_SESSION_ENCRYPTION_STRICT refuses"
            )
        return data

    def _remember(self, id_hash: str, outdated: dict[str, bytes]) -> None:
        with self._lock:
            self._outdated[id_hash] = outdated
            self._outdated.move_to_end(id_hash)
            if len(self._outdated) > _MAX_OUTDATED:
                self._outdated.popitem(last=False)

    async def create(
        self,
        key: SessionKey,
        fields: Mapping[str, bytes],
        *,
        max_age: float,
        idle_timeout: float = 0.0,
    ) -> Outcome:
        """See :meth:`SessionStore.create`."""
        cipher = self._cipher.of(key.id_hash)
        sealed = {name: cipher.seal(name, data) for name, data in fields.items()}
        return await self.inner.create(key, sealed, max_age=max_age, idle_timeout=idle_timeout)

    async def save(self, key: SessionKey, change: Change, *, idle_timeout: float = 0.0) -> Outcome:
        """See :meth:`SessionStore.save`. What a load found in an older form is renewed as well."""
        cipher = self._cipher.of(key.id_hash)
        expected = await self._expected(key, change, idle_timeout)
        if isinstance(expected, Outcome):
            return expected
        with self._lock:
            outdated = self._outdated.pop(key.id_hash, {})
        sealed = Change(
            set={name: cipher.seal(name, data) for name, data in change.set.items()},
            removed=change.removed,
            rotation=change.rotation,
            renewed={
                name: (data, cipher.seal(name, self._opened_one(cipher, name, data)))
                for name, data in outdated.items()
                if name not in change.set and name not in change.removed
            },
            expected=expected,
        )
        return await self.inner.save(key, sealed, idle_timeout=idle_timeout)

    async def _expected(
        self, key: SessionKey, change: Change, idle_timeout: float
    ) -> Mapping[str, bytes | None] | Outcome:
        """Return what *change* expects, in the form that is stored; or why it is refused.

        No value is sealed alike twice, so that only what is there now can be expected.
        """
        if not change.expected:
            return change.expected
        found = await self.inner.load(key, idle_timeout=idle_timeout)
        if isinstance(found, Missing):
            return Outcome.GONE
        cipher, stored = self._cipher.of(key.id_hash), found.fields
        present = [name for name in change.expected if name in stored]
        if not change.fits({n: self._opened_one(cipher, n, stored[n]) for n in present}):
            return Outcome.CONFLICT
        return {name: stored.get(name) for name in change.expected}

    async def touch(
        self, key: SessionKey, *, idle_timeout: float, interval: float = 0.0
    ) -> Outcome:
        """See :meth:`SessionStore.touch`."""
        return await self.inner.touch(key, idle_timeout=idle_timeout, interval=interval)

    async def delete(self, id_hash: str) -> Outcome:
        """See :meth:`SessionStore.delete`."""
        return await self.inner.delete(id_hash)

    async def flush(self) -> None:
        """Write what waits to be written."""
        await self.inner.flush()


def encrypted(store: SessionStore, settings: Settings) -> SessionStore:
    """Return *store*, encrypted where *settings* have a key for it; never twice.

    Raises:
        ConfigurationError: the package ``cryptography`` is not installed.
    """
    keys = [key.get_secret_value() for key in settings.session_encryption_key]
    if not keys or isinstance(store, EncryptedSessionStore):
        return store
    return EncryptedSessionStore(store, keys, strict=settings.session_encryption_strict)


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


def _extracted(key: str) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869, section 2.2)."""
    return hmac.digest(_SALT, key.encode(), hashlib.sha256)


def _expanded(root: bytes, info: bytes) -> bytes:
    """HKDF-Expand with SHA-256 to 32 bytes, which is its first block (RFC 5869, section 2.3)."""
    return hmac.digest(root, info + b"\x01", hashlib.sha256)


def _key_id(root: bytes) -> bytes:
    return _expanded(root, b"holdfast.session.key-id")[:_KEY_ID_BYTES]
