"""`holdfast runs`: look into a run from the command line, follow it, and put in a word.

What is shown here comes from the configured Redis, or for `tail` from the address of a stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import sys
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from holdfast.cli import missing
from holdfast.errors import (
    ConfigurationError,
    CorruptData,
    HoldfastError,
    InvalidEvent,
    RedisUnavailable,
    RunExpired,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from holdfast.client import Item
    from holdfast.link import Link
    from holdfast.streams.store import EventStore, RunInfo

T = TypeVar("T")

_AT_ONCE = 200


@click.group()
def runs() -> None:
    """List, show, follow, publish, expire and import runs.

    Exit status: 0 it was done (tail: the run completed), 1 it could not be (tail: the run ended
    otherwise), 2 the call or the configuration cannot work, 130 it was interrupted.
    """
    try:
        import holdfast.client  # noqa: F401 - asked here, so that whoever lacks httpx is told
    except ModuleNotFoundError:
        missing("httpx")


def _async(command: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    """Run an asynchronous command; a refusal becomes one line and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> T:
        try:
            return asyncio.run(_closed_afterwards(command(*args, **options)))
        except InvalidEvent as error:
            raise click.UsageError(str(error)) from None
        except ConfigurationError:
            raise
        except HoldfastError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            sys.exit(130)  # 128 + SIGINT, as shells count; leaving is no error to tell

    return run


async def _closed_afterwards(work: Coroutine[Any, Any, T]) -> T:
    from holdfast.runtime import aclose

    try:
        return await work
    finally:
        await aclose()


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--after",
    "last_id",
    default="",
    help="Begin after this event id; $ for new ones only. Several runs take $ alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
@click.option("--token", help="For an address: the token to send; - reads it from standard input.")
@click.pass_context
@_async
async def tail(
    context: click.Context,
    run_ids: tuple[str, ...],
    last_id: str,
    as_json: bool,
    token: str | None,
) -> None:
    """Follow each RUN to its end.

    RUN is a run id, for which HOLDFAST_REDIS_URL has to be set, or the address of one stream
    (http://…/events/stream).
    """
    from holdfast.cli import following
    from holdfast.cli.live import make_view

    run = run_ids[0]
    view = make_view(following.named(run_ids), sys.stdout, as_json=as_json)
    if len(run_ids) > 1:
        if any("://" in each for each in run_ids):
            raise click.UsageError("an address is followed alone; ?run=… in it names several runs")
        items = following.from_store(await _store(), run_ids, last_id)
    elif "://" in run:
        token = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - not a token
        items = following.from_address(run, last_id, token, view.tell)
    else:
        items = from_store(await _store(), run, last_id, view.tell)
    ticking = asyncio.create_task(view.keep_fresh())
    try:
        async with contextlib.aclosing(items):
            async for item in items:
                view.show(item)
    finally:
        ticking.cancel()
        view.close()
    context.exit(0 if view.completed else 1)


async def from_store(
    store: EventStore, run_id: str, last_id: str, tell: Callable[[str], None]
) -> AsyncGenerator[Item, None]:
    """Follow a run at its store; *tell* hears of one that nobody has begun, which is waited for.

    Raises:
        InvalidEvent: the run id or the position cannot exist.
        RunExpired: the run is over and its events are no longer kept.
    """
    from holdfast.client import End
    from holdfast.streams.cursor import parse_position
    from holdfast.streams.doors.opening import Opening, decide, look
    from holdfast.streams.event import check_run_id
    from holdfast.streams.fanout.subscription import Subscription
    from holdfast.streams.select import hub_of

    position = parse_position(last_id)
    if position is None:
        raise InvalidEvent(f"{last_id!r} is no event id")
    opening = decide(await look(store, check_run_id(run_id)), position)
    if opening is Opening.EXPIRED:
        raise RunExpired(f"the run {run_id!r} is over and its events are no longer kept")
    if opening is Opening.ABSENT:
        tell(f"nobody has begun the run {run_id!r}; waiting for it")
    if opening is not Opening.NOTHING_FOLLOWS:
        async with Subscription(hub_of(store), run_id, position) as subscription:
            while not subscription.done:
                for due in await subscription.take():
                    yield _item(run_id, due)
                if not subscription.done:
                    await subscription.wait()
            if subscription.expired:
                raise RunExpired(f"the run {run_id!r} never ended; its events are no longer kept")
    yield End(run_id)


def _item(run_id: str, due: Any) -> Item:
    from dataclasses import replace

    from holdfast.client import Gap, Reset
    from holdfast.streams.frames import Frame
    from holdfast.streams.store import to_event

    if isinstance(due.item, Frame):
        return replace(to_event(run_id, due.item.entry), id=due.cursor)
    kind = Gap if due.item.kind == "gap" else Reset
    return kind(run_id, due.item.requested, due.item.earliest)


@runs.command("list")
@click.option(
    "--status",
    "statuses",
    type=click.Choice(["open", "ended", "expired"]),
    multiple=True,
    help="Only runs that are so; again for more than one.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Print at most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print each run as one line of JSON.")
@_async
async def list_(*, statuses: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """List the runs: status, kept events, last event, owner.

    The names of all keys of Redis are read for it, in small steps; what comes or goes meanwhile may
    be missed. The order is Redis's own.
    """
    left = -1 if limit is None else limit
    if not as_json:
        click.echo(_row("status", "kept", "last", "owner", "run"))
    async with contextlib.aclosing(_described()) as described:
        async for run_id, info in described:
            if statuses and info.status not in statuses:
                continue
            click.echo(_listed(run_id, info, as_json=as_json))
            left -= 1
            if not left:
                break


async def _described() -> AsyncGenerator[tuple[str, RunInfo], None]:
    from holdfast.runtime import runtime
    from holdfast.streams.stores.listing import run_ids

    store = await _store()
    ids = run_ids(await _link(), runtime().settings)
    while found := await asyncio.to_thread(lambda: [*itertools.islice(ids, _AT_ONCE)]):
        told = await asyncio.gather(*map(store.describe, found), return_exceptions=True)
        for run_id, info in zip(found, told, strict=True):
            if isinstance(info, CorruptData):
                click.echo(f"holdfast: {info}", err=True)
            elif isinstance(info, BaseException):
                raise info
            elif info.status != "absent":
                yield run_id, info


def _listed(run_id: str, info: RunInfo, *, as_json: bool) -> str:
    from holdfast.cli.live import printable
    from holdfast.streams.event import ZERO

    last = str(info.last) if info.last > ZERO else None
    if as_json:
        kept = {"status": info.status, "kept": info.length, "last": last, "owner": info.owner}
        return json.dumps({"run_id": run_id, **kept}, ensure_ascii=False)
    owner = printable(info.owner or "-")
    return _row(info.status, str(info.length), last or "-", owner, printable(run_id))


def _row(status: str, kept: str, last: str, owner: str, run_id: str) -> str:
    # The run comes last: it may be long, and what is read by programs is --json.
    return f"{status:8} {kept:>7}  {last:20} {owner:20}  {run_id}"


@runs.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
@_async
async def show(context: click.Context, run: str, as_json: bool) -> None:
    """Show a run: its status, owner, first and last event."""
    from holdfast.cli.live import printable
    from holdfast.streams.event import check_run_id

    store = await _store()
    facts = await _facts(store, check_run_id(run), await store.describe(run))
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        for name, value in facts.items():
            click.echo(f"{name:8}  {printable('none' if value is None else str(value))}")
    context.exit(1 if facts["status"] == "absent" else 0)


async def _facts(store: EventStore, run_id: str, info: RunInfo) -> dict[str, str | int | None]:
    from holdfast.streams.event import ZERO

    kept = await store.get_events(run_id, limit=1)
    ended = await store.get_events(run_id, str(info.end), str(info.end)) if info.end else []
    return {
        "run_id": run_id,
        "status": info.status,
        "owner": info.owner,
        "kept": info.length,
        "written": info.n,
        "first": kept[0].id if kept else None,
        "last": str(info.last) if info.last > ZERO else None,
        "end": ended[0].type if ended else None,
    }


@runs.command()
@click.argument("run")
@click.argument("type")
@click.argument("data", default="null")
@_async
async def publish(run: str, type: str, data: str) -> None:  # noqa: A002 - the wire's own name
    """Publish one event of RUN and print its id.

    DATA is JSON, or - to read it from standard input. A TYPE that ends a run ends it.
    """
    try:
        value = json.loads(sys.stdin.read() if data == "-" else data)
    except ValueError as error:
        raise click.UsageError(f"DATA is not JSON: {error}; text needs quotes of its own") from None
    event = await (await _store()).add(run, type, value)
    if "~" in event.id:
        # It waits in the memory of a process that is about to end.
        raise RedisUnavailable("lost", "it went away meanwhile; the event may not be stored")
    click.echo(event.id)


@runs.command()
@click.argument("run")
@click.argument("seconds", type=click.IntRange(min=0))
@click.pass_context
@_async
async def expire(context: click.Context, run: str, seconds: int) -> None:
    """Keep the events of RUN for SECONDS from now.

    0 removes them at once.
    """
    from holdfast.streams.event import check_run_id

    store = await _store()
    if not await store.set_expire(check_run_id(run), seconds):
        click.echo(f"holdfast: {run}: there are no events to expire", err=True)
        context.exit(1)
    click.echo(f"{run}: events are kept for {seconds} s from now")


@runs.command("import", context_settings={"show_default": True})
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@click.option("--csv", "as_csv", is_flag=True, help="Read CSV with a header, not lines of JSON.")
@click.option("--run", "run_column", default="run_id", help="The column of the run's id.")
@click.option("--type", "type_column", default="type", help="The column of the event's type.")
@click.option("--data", "data_column", default="data", help="The column of its data.")
@click.option("--time", "time_column", default="created_at", help="The column of its time.")
@click.option("--owner", "owner_column", default="owner", help="The column of the run's owner.")
@click.option("--complete", is_flag=True, help="End runs that have no end.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, and write nothing.")
@_async
async def import_(file: TextIO, *, as_csv: bool, complete: bool, dry_run: bool, **at: str) -> None:
    """Import runs that another system kept.

    FILE, or standard input, has an event in each line; the lines of a run are together, in their
    order. A run is written whole or not at all, and one that is there already is left as it is:
    after an error, run it again.
    """
    from holdfast.cli.imports import Columns, csv_lines, foreign_runs, json_lines
    from holdfast.streams.stores.redis import RedisEventStore

    columns = Columns(**{name.removesuffix("_column"): value for name, value in at.items()})
    store = await _store()
    lines = csv_lines(file, columns.data) if as_csv else json_lines(file)
    taken, left, events = 0, 0, 0
    try:
        for run in foreign_runs(lines, columns, store, complete=complete):
            if dry_run or (
                isinstance(store, RedisEventStore)
                and await store.adopt(run.run_id, run.events, owner=run.owner)
            ):
                taken, events = taken + 1, events + len(run.events)
            else:
                left += 1
    except UnicodeDecodeError as error:
        raise click.ClickException(f"FILE is not UTF-8: {error}") from None
    finally:
        there = f"; {left} were there already" if left else ""
        done = "would be imported" if dry_run else "imported"
        click.echo(f"{_count(taken, 'run')} with {_count(events, 'event')} {done}{there}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


async def _store() -> EventStore:
    """Return the configured store, once it answers.

    Raises:
        ConfigurationError, RedisUnavailable: as `_link`.
    """
    from holdfast.runtime import runtime
    from holdfast.streams.select import default_store

    await _link()
    return default_store(runtime())


async def _link() -> Link:
    """Return the link to the configured Redis, once it answers.

    Raises:
        ConfigurationError: none is configured that another process could see.
        RedisUnavailable: it does not answer now.
    """
    from holdfast.runtime import runtime

    link = runtime().link
    if link is None:
        raise ConfigurationError(
            "HOLDFAST_REDIS_URL is not set: runs in the memory of another process cannot be seen"
            " from here (tail takes the address of a stream instead)"
        )
    if not await link.ready():
        raise RedisUnavailable(link.status.reason or "timeout")
    return link
