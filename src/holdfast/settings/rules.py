"""Values that are each right and cannot work together. Pure: settings in, clashes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.settings.table import MAKE_A_KEY, MIN_KEY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.settings.table import Table


@dataclass(frozen=True)
class Clash:
    """What cannot work, in one line, and the fields that it is about."""

    fields: frozenset[str]
    line: str


def clashes(table: Table, key_source: str) -> Iterator[Clash]:
    """Every combination in *table* that cannot work.

    Args:
        table: the values.
        key_source: where the secret key comes from; ``argument`` for code.
    """
    yield from _missing_partners(table)
    yield from _cookie_clashes(table)
    # In code a short key may be a test's; in the environment it is a deployment's.
    if key_source != "argument" and has_short_key(table):
        yield _clash(
            "secret_key",
            f"{key_source} (not shown): the first key must have at least {MIN_KEY_LENGTH} "
            f"characters; make one: {MAKE_A_KEY}",
        )
    if has_short_encryption_key(table):
        yield _clash(
            "session_encryption_key",
            "HOLDFAST_SESSION_ENCRYPTION_KEY (not shown): the first key must have at least "
            f"{MIN_KEY_LENGTH} characters; make one: {MAKE_A_KEY}",
        )


def has_short_encryption_key(table: Table) -> bool:
    """Whether the key that encrypts is short enough to be guessed."""
    keys = table.session_encryption_key
    return bool(keys) and len(keys[0]) < MIN_KEY_LENGTH


def has_short_key(table: Table) -> bool:
    """Whether the key that signs is short enough to be guessed."""
    return bool(table.secret_key) and len(table.secret_key[0]) < MIN_KEY_LENGTH


def _missing_partners(table: Table) -> Iterator[Clash]:
    if table.redis_url is None and table.session_store == "redis":
        yield _clash(
            "session_store redis_url", "HOLDFAST_SESSION_STORE=redis needs HOLDFAST_REDIS_URL"
        )
    if table.redis_url is None and table.redis_required:
        yield _clash(
            "redis_required redis_url", "HOLDFAST_REDIS_REQUIRED=true needs HOLDFAST_REDIS_URL"
        )
    if table.session_encryption_strict and not table.session_encryption_key:
        yield _clash(
            "session_encryption_strict session_encryption_key",
            "HOLDFAST_SESSION_ENCRYPTION_STRICT=true needs HOLDFAST_SESSION_ENCRYPTION_KEY",
        )


def _cookie_clashes(table: Table) -> Iterator[Clash]:
    # RFC 6265bis (draft 20), section 5.7: browsers drop such cookies, and say nothing.
    secure = "needs HOLDFAST_SESSION_HTTPS_ONLY=true"
    cookie = f"HOLDFAST_SESSION_COOKIE={table.session_cookie}"
    prefix = table.session_cookie.lower()
    if not table.session_https_only:
        if prefix.startswith(("__host-", "__secure-")):
            yield _clash("session_cookie session_https_only", f"{cookie} {secure}")
        if table.session_same_site == "none":
            yield _clash(
                "session_same_site session_https_only", f"HOLDFAST_SESSION_SAME_SITE=none {secure}"
            )
        if table.session_partitioned:
            yield _clash(
                "session_partitioned session_https_only",
                f"HOLDFAST_SESSION_PARTITIONED=true {secure}",
            )
    if prefix.startswith("__host-") and table.session_path != "/":
        yield _clash("session_cookie session_path", f"{cookie} needs HOLDFAST_SESSION_PATH=/")
    if prefix.startswith("__host-") and table.session_domain is not None:
        yield _clash("session_cookie session_domain", f"{cookie} allows no HOLDFAST_SESSION_DOMAIN")


def _clash(fields: str, line: str) -> Clash:
    return Clash(frozenset(fields.split()), line)
