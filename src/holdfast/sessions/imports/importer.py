"""How a session of another package becomes one of ours: once, for whoever presents it.

An imported session's credential is made of the foreign one by HMAC, so that requests in parallel
meet in one session. A mark beside it, kept for as long as the foreign session could come back, says
that it was imported: what is logged out or regenerated since is not imported again.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.errors import ConfigurationError, CorruptData, SessionUnavailable
from holdfast.sessions.cookie import Credential, NoCredential, Presented, candidates
from holdfast.sessions.events import SessionCreated
from holdfast.sessions.imports.django import DjangoSource
from holdfast.sessions.imports.flask_session import FlaskSessionSource
from holdfast.sessions.imports.foreign import MAX_COOKIE_BYTES, Claim, Foreign, Source
from holdfast.sessions.imports.starlette import StarletteSource
from holdfast.sessions.imports.starsessions import StarsessionsSource
from holdfast.sessions.lifecycle import DEFAULT_LIFETIME
from holdfast.sessions.record import encode_key, encode_value
from holdfast.sessions.request.exchange import Exchange, Setup
from holdfast.sessions.store import Record, SessionKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.link import Link
    from holdfast.settings import Settings

logger = logging.getLogger("holdfast.sessions")

_PURPOSE = b"holdfast.session.import"


def importer_of(settings: Settings, link: Link | None, setup: Setup) -> Importer | None:
    """Return what imports by *settings*, ``None`` where nothing is to be imported.

    Raises:
        ConfigurationError: a package's sessions are in Redis, and none is configured.
    """
    if not settings.session_import:
        return None
    keys = settings.signing_keys()
    sources = [_source(name, keys, link, setup) for name in settings.session_import]
    return Importer(sources, keys, setup)


def _source(package: str, keys: Sequence[str], link: Link | None, setup: Setup) -> Source:
    if package == "django":
        return DjangoSource(link)
    if package == "starlette":
        return StarletteSource(keys, setup.attributes.max_age or DEFAULT_LIFETIME)
    if link is None:
        raise ConfigurationError(
            f"HOLDFAST_SESSION_IMPORT={package} needs HOLDFAST_REDIS_URL: its sessions are in Redis"
        )
    if package == "starsessions":
        return StarsessionsSource(link)
    return FlaskSessionSource(link, keys)


class Importer:
    """Opens sessions of other packages for requests that have none of ours.

    Args:
        sources: where to look, in this order.
        keys: what credentials are made with, newest first.
        setup: of the sessions that they become.
    """

    def __init__(self, sources: Sequence[Source], keys: Sequence[str], setup: Setup) -> None:
        self._sources = sources
        self._keys = keys
        self._setup = setup

    async def open(
        self, headers: Iterable[tuple[bytes, bytes]], scope: Mapping[str, Any] | None = None
    ) -> Exchange | None:
        """Return the session of a request, ``None`` where no other package has one for it.

        Args:
            headers: of the request, names in lower case.
            scope: the connection, for the index of users.
        """
        headers = list(headers)
        for source in self._sources:
            claim = self._claim(source, headers)
            if claim is None:
                continue
            try:
                exchange = await self._open(source, claim, scope)
            except SessionUnavailable:
                exchange = Exchange(self._setup, NoCredential.INVALID)
                exchange.open_unavailable()
            if exchange is not None:
                return exchange
        return None

    def _claim(self, source: Source, headers: list[tuple[bytes, bytes]]) -> Claim | None:
        # Whoever had renamed the old cookie has given ours that name.
        for name in dict.fromkeys((self._setup.attributes.name, source.cookie)):
            values = candidates(headers, name.encode("latin-1"))
            texts = [v.decode("latin-1") for v in values if len(v) <= MAX_COOKIE_BYTES]
            claims = {claim for text in texts if (claim := source.claim(_unquoted(text)))}
            if len(claims) == 1:
                return claims.pop()
            if claims:
                # A sibling subdomain can toss a second one at ours: see CookieSigner.choose.
                logger.warning("a request came with two sessions of %s: none", source.package)
                return None
        return None

    async def _open(
        self, source: Source, claim: Claim, scope: Mapping[str, Any] | None
    ) -> Exchange | None:
        foreign = await source.read(claim)
        fields = {} if foreign is None else self._fields(source, foreign)
        if foreign is None or not fields or self._setup.terms.lifetime <= 0:
            return None
        user = self._setup.terms.user_of({key: foreign.data[key] for key in fields})
        if claim.carried is not None and user is None:
            # What a cookie carries is no id: two visitors may hold the very same. Without a user
            # in it each gets a session of his own.
            exchange = Exchange(self._setup, NoCredential.INVALID)
            exchange.begin({key: foreign.data[key] for key in fields})
            return exchange
        ours = [_derived(key, claim) for key in self._keys]
        credential = await self._credential(ours)
        if credential is None:
            credential = ours[0].credential
            life = self._setup.terms.lifetime
            # First, so that no session of a user is missed by who ends them all.
            await self._setup.tidings.note(user, credential.key.id_hash, scope, life)
            await self._create(ours[0], fields, foreign.seconds)
            self._tell(claim, credential, user)
        # As a cookie signed with an older key: the browser is to get the present one.
        presented = Presented(credential, old_key=True)
        exchange = Exchange(self._setup, presented)
        await exchange.load(presented)
        return exchange

    def _fields(self, source: Source, foreign: Foreign) -> dict[str, bytes]:
        fields = {}
        for key, value in foreign.data.items():
            try:
                encode_key(key)
                fields[key] = encode_value(key, value)
            except TypeError as error:
                source.refuse(f"one of its values is left out: {error}")
        size = sum(len(key.encode()) + len(data) for key, data in fields.items())
        if size > self._setup.terms.max_bytes:
            source.refuse(f"it has {size} bytes, more than HOLDFAST_SESSION_MAX_BYTES allows")
            return {}
        return fields

    async def _credential(self, ours: Sequence[_Derived]) -> Credential | None:
        """Return that of the session which was imported before, ``None`` where nobody has yet."""
        for each in ours:
            if await self._is_marked(each):
                return each.credential
        return None

    async def _create(self, ours: _Derived, fields: dict[str, bytes], seconds: float) -> None:
        store, terms = self._setup.store, self._setup.terms
        # The session before its mark: between the two another request finds it by its credential.
        await store.create(
            ours.credential.key,
            fields,
            max_age=terms.lifetime,
            idle_timeout=terms.idle_timeout,
        )
        await store.create(ours.mark, {}, max_age=max(seconds, terms.lifetime))

    def _tell(self, claim: Claim, credential: Credential, user: str | None) -> None:
        logger.info("a session of %s was imported", claim.package)
        self._setup.tidings.tell(SessionCreated(id_hash=credential.key.id_hash, user=user))

    async def _is_marked(self, derived: _Derived) -> bool:
        try:
            return isinstance(await self._setup.store.load(derived.mark), Record)
        except CorruptData:
            return True


class _Derived(NamedTuple):
    """What becomes of a foreign session under one of our keys."""

    credential: Credential
    mark: SessionKey


def _derived(key: str, claim: Claim) -> _Derived:
    parts = (_PURPOSE, claim.package.encode(), claim.id.encode())
    root = hmac.digest(key.encode(), b"\x00".join(parts), hashlib.sha256)

    def text(purpose: bytes, size: int) -> str:
        return urlsafe_b64encode(hmac.digest(root, purpose, hashlib.sha256)[:size]).decode()

    # 18 and 24 bytes: as long as those of a credential made by chance.
    credential = Credential(text(b"locator", 18), text(b"secret", 24))
    mark = Credential(text(b"mark locator", 18), text(b"mark secret", 24))
    return _Derived(credential, mark.key)


def _unquoted(value: str) -> str:
    # RFC 6265, section 4.1.1: a value may stand in double quotes.
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return value[1:-1] if quoted else value
