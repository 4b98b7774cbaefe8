"""`holdfast check`: what is configured, from where, and whether the Redis behind it will do."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import click

import holdfast
from holdfast.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.settings import Settings

Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    verdict: Verdict
    name: str
    text: str


@click.command()
@click.pass_context
def check(context: click.Context) -> None:
    """Print the configuration, then look at Redis.

    Exit status: 0 all is well, 1 there are warnings, 2 there are problems or the configuration
    cannot work.
    """
    from holdfast.settings import Settings

    # Its warnings are lines of this report.
    logging.getLogger("holdfast").addHandler(logging.NullHandler())
    settings = Settings()
    click.echo(f"holdfast {holdfast.__version__}\n\nConfiguration")
    for text in configuration(settings):
        click.echo(f"  {text}")
    click.echo("\nVerdicts")
    lines = []
    for line in findings(settings):
        lines.append(line)
        click.echo(f"  {_coloured(line.verdict)} {line.name}: {line.text}")
    click.echo(f"\n{summary(lines)}")
    context.exit(exit_status(lines))


def configuration(settings: Settings) -> list[str]:
    """A line for each variable: name, value as it may be shown, where it comes from."""
    rows = [
        (each.name, settings.shown(each.field), settings.source(each.field))
        for each in settings.table()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:{widths[0]}}  {value:{widths[1]}}  {source}" for name, value, source in rows]


def findings(settings: Settings) -> Iterator[Line]:
    """Everything worth a verdict, the configuration first."""
    for text in settings.warnings:
        yield Line("warning", "configuration", text)
    yield _secret_key(settings)
    yield from _refused_at_start(settings)
    if settings.redis_url is None:
        yield _memory(settings)
        return
    from holdfast.link.capabilities import inspect

    for finding in inspect(settings).findings:
        yield Line(finding.verdict, finding.name, finding.text)


def _secret_key(settings: Settings) -> Line:
    if settings.secret_key:
        count = len(settings.secret_key)
        return Line("ok", "secret key", f"set; {count} in use" if count > 1 else "set")
    if settings.redis_url is None:
        return Line(
            "warning", "secret key", "not set: a random one per process; a restart logs all out"
        )
    return Line(
        "warning",
        "secret key",
        "HOLDFAST_SECRET_KEY is not set: sessions and tokens refuse to start without it",
    )


def _refused_at_start(settings: Settings) -> Iterator[Line]:
    """What is well in itself, and what a server would refuse all the same."""
    from holdfast.sessions.choice import named_factory

    try:
        settings.check_workers()
    except ConfigurationError as error:
        yield Line("problem", "workers", str(error))
    if ":" in settings.session_store:
        try:
            named_factory(settings.session_store)
        except ConfigurationError as error:
            yield Line("problem", "session store", str(error))


def _memory(settings: Settings) -> Line:
    if settings.is_set("redis_url"):
        return Line("ok", "redis", "turned off: everything is kept in the memory of one process")
    return Line(
        "warning",
        "redis",
        "HOLDFAST_REDIS_URL is not set: everything is kept in the memory of one process",
    )


def exit_status(lines: list[Line]) -> int:
    """0 all is well, 1 there are warnings, 2 there are problems."""
    verdicts = {line.verdict for line in lines}
    return 2 if "problem" in verdicts else 1 if "warning" in verdicts else 0


def summary(lines: list[Line]) -> str:
    """The whole report in one sentence."""
    counts = [
        f"{count} {verdict}{'s' if count > 1 else ''}"
        for verdict in ("problem", "warning")
        if (count := sum(line.verdict == verdict for line in lines))
    ]
    return f"There {_are(lines)} {' and '.join(counts)}." if counts else "All is well."


def _are(lines: list[Line]) -> str:
    first = "problem" if exit_status(lines) == 2 else "warning"
    return "is" if sum(line.verdict == first for line in lines) == 1 else "are"


def _coloured(verdict: Verdict) -> str:
    # click takes the colour away again where the output is no terminal.
    return click.style(
        f"{verdict:8}", {"ok": "green", "warning": "yellow", "problem": "red"}[verdict]
    )
