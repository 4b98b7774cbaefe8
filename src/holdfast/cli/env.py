"""`holdfast env`: every variable, as Markdown for the documentation or as a `.env` to fill in."""

from __future__ import annotations

import re
import textwrap
from itertools import groupby
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.settings import Variable

_SECTIONS = {"session": "Sessions", "stream": "Event streams", "app": "Serving"}


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "dotenv"]),
    default="markdown",
    show_default=True,
    help="A table for reading, or a file for filling in.",
)
def env(form: str) -> None:
    """Print every variable with its default and meaning."""
    from holdfast.settings import Settings

    table = Settings.table()
    click.echo(markdown(table) if form == "markdown" else dotenv(table), nl=False)


def _sections(table: list[Variable]) -> Iterator[tuple[str, Iterator[Variable]]]:
    def section(variable: Variable) -> str:
        return _SECTIONS.get(variable.field.split("_")[0], "Redis and signing")

    return groupby(table, section)


def markdown(table: list[Variable]) -> str:
    """*table* as Markdown: a heading and a table for each part."""
    lines = []
    for title, variables in _sections(table):
        lines += [f"## {title}", ""]
        lines += ["| Variable | Default | Allowed | Meaning | Example |", "|---|---|---|---|---|"]
        lines += [_row(variable) for variable in variables]
        lines += [""]
    return "\n".join(lines)


def _row(variable: Variable) -> str:
    names = f"`{variable.name}`" + (f" or `{variable.alias}`" if variable.alias else "")
    default = variable.default
    shown = default if default in {"none", "empty"} else f"`{default}`"
    # Allowed is prose with punctuation of its own; meaning is written as Markdown.
    allowed = re.sub(r"([\\`*_{}|])", r"\\\1", variable.allowed)
    meaning = variable.meaning.replace("|", "\\|")
    return f"| {names} | {shown} | {allowed} | {meaning} | `{variable.example}` |"


def dotenv(table: list[Variable]) -> str:
    """*table* as a `.env` in which nothing is set: each line is the default, or an example."""
    lines = ["# Variables of holdfast. Take away a # to set one; an empty value is as unset.", ""]
    for title, variables in _sections(table):
        lines += [f"# ---- {title} ----", ""]
        for variable in variables:
            lines += [*_comment(variable), f"# {variable.name}={_value(variable)}", ""]
    return "\n".join(lines)


def _comment(variable: Variable) -> list[str]:
    text = f"{variable.meaning.replace('`', '')} Allowed: {variable.allowed}."
    if variable.alias:
        text += f" {variable.alias} is read too."
    return textwrap.wrap(
        text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _value(variable: Variable) -> str:
    if variable.default not in {"none", "empty"}:
        return variable.default
    # An example of a key would be somebody's key before long.
    return "" if variable.secret and variable.alias is None else variable.example
