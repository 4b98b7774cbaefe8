"""The table of mutations, read from ``table.toml`` beside this file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    """A guard taken away.

    Attributes:
        file: below ``src/holdfast``.
        guard: the text that is replaced; it occurs once in the file.
        instead: what stands there then.
        test: that fails with it and passes without, below ``tests/``.
    """

    file: str
    guard: str
    instead: str
    test: str


def _read() -> list[Mutation]:
    table = tomllib.loads((Path(__file__).parent / "table.toml").read_text())
    return [Mutation(file, **row) for file, rows in table.items() for row in rows]


MUTATIONS = _read()
