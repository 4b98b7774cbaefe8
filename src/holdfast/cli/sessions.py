"""`holdfast sessions`: where a user is logged in, what a session is made of, and ending it.

What is shown opens no session and holds no value of one: ids as hashes, data as keys and sizes.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

from holdfast.errors import ConfigurationError, CorruptData, SessionUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from holdfast.sessions.index import SyncSessionIndex
    from holdfast.sessions.users import SessionInfo

T = TypeVar("T")


def _id_hash(text: str) -> str:
    """An ``id_hash``, whole: a part of one could name another session tomorrow."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise click.BadParameter("an ID_HASH is 64 characters of 0-9 and a-f")
    return text


@click.group()
def sessions() -> None:
    """List, show and end sessions.

    Exit status: 0 it was done, 1 there is no such session or Redis is away, 2 the call or the
    configuration cannot work.
    """
    # What the log would say of Redis, the command says itself.
    logging.getLogger("holdfast").addHandler(logging.NullHandler())


def _asking(command: Callable[..., T]) -> Callable[..., T]:
    """Give *command* the index; an outage becomes one line and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> T:
        try:
            return command(_index(), *args, **options)
        except (SessionUnavailable, CorruptData) as error:
            raise click.ClickException(str(error)) from None

    return run


def _index() -> SyncSessionIndex:
    from holdfast.sessions.index import SyncSessionIndex
    from holdfast.settings import Settings

    settings = Settings()
    if settings.redis_url is None or settings.session_store not in {"auto", "redis"}:
        raise ConfigurationError(
            "this command sees sessions in Redis alone: set HOLDFAST_REDIS_URL as your app does"
        )
    return SyncSessionIndex(settings)


@sessions.command("list")
@click.argument("user")
@_asking
def list_(index: SyncSessionIndex, user: str) -> None:
    """List the sessions of USER, the last seen first."""
    found = index.list(user)
    rows: list[tuple[str, ...]] = [
        ("ID_HASH", "CREATED", "SEEN", "EXPIRES", "ADDRESS", "USER AGENT")
    ]
    rows += [_row(each) for each in found]
    for line in _table(rows if found else []):
        click.echo(line)


@sessions.command()
@click.argument("id_hash", type=_id_hash)
@_asking
def show(index: SyncSessionIndex, id_hash: str) -> None:
    """Show the times, keys and sizes of a session, and no value."""
    info = index.show(id_hash)
    if info is None:
        raise click.ClickException("there is no such session")
    facts = {"created": info.created_at, "seen": info.last_seen_at, "expires": info.expires_at}
    for line in _table([(name, _time(at)) for name, at in facts.items()]):
        click.echo(line)
    rows = [(f"  {_printable(key)}", f"{size} bytes") for key, size in info.sizes.items()]
    for line in ["data", *_table(rows)]:
        click.echo(line)


@sessions.command()
@click.argument("id_hash", type=_id_hash)
@_asking
def revoke(index: SyncSessionIndex, id_hash: str) -> None:
    """End the session ID_HASH, with its streams and sockets."""
    if not index.revoke(id_hash):
        raise click.ClickException("there is no such session")
    click.echo("ended")


@sessions.command("revoke-user")
@click.argument("user")
@click.option("--keep", type=_id_hash, metavar="ID_HASH", help="All but this one.")
@_asking
def revoke_user(index: SyncSessionIndex, user: str, keep: str | None) -> None:
    """End all sessions of USER."""
    count = index.revoke_all(user, keep=keep)
    click.echo(f"{count} session{'' if count == 1 else 's'} ended")


def _row(info: SessionInfo) -> tuple[str, ...]:
    times = map(_time, (info.created_at, info.last_seen_at, info.expires_at))
    return (info.id_hash, *times, info.address or "-", _printable(info.user_agent or "-"))


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _printable(text: str) -> str:
    """*text* without what a terminal would obey (CWE-150)."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
