"""The root of the commands: what is common to all of them, and the list of them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import holdfast
from holdfast.cli.chaos import chaos
from holdfast.cli.check import check
from holdfast.cli.demo import demo
from holdfast.cli.dotenv import read_dotenv
from holdfast.cli.env import env
from holdfast.cli.runs import runs
from holdfast.cli.serve import serve
from holdfast.cli.sessions import sessions
from holdfast.errors import ConfigurationError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(holdfast.__version__, message="%(prog)s %(version)s")
def root() -> None:
    """Server-side sessions and resumable event streams for any Python web app.

    Variables are read from the environment, and from a file named .env in this folder for those
    that the environment does not set.
    """
    read_dotenv(Path(".env"))


for command in (chaos, check, demo, env, runs, serve, sessions):
    root.add_command(command)


def run() -> None:
    """Run the command of ``sys.argv``; what cannot work is told in one place."""
    try:
        root.main(prog_name="holdfast")
    except ConfigurationError as error:
        click.echo(f"holdfast: {error}", err=True)
        sys.exit(2)
