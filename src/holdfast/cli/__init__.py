"""The command line: `holdfast`. Each command is a module of its own beside this one.

A command reads settings, asks other parts of the package and prints; it decides nothing for them.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> None:
    """Run the command line. Exit status 2: it could not begin (usage, configuration)."""
    try:
        import click  # noqa: F401 - asked here, so that whoever lacks it is told how to get it
    except ModuleNotFoundError:
        missing("click")
    from holdfast.cli.root import run

    run()


def missing(name: str) -> NoReturn:
    """Leave, telling how to get the package *name* that a command needs."""
    print(f'holdfast: {name} is missing: pip install "holdfast[cli]"', file=sys.stderr)
    sys.exit(2)
