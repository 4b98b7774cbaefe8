"""The table of mutations, read from the ``.toml`` files beside this one."""

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
    return [
        Mutation(file, **row)
        for part in sorted(Path(__file__).parent.glob("*.toml"))
        for file, rows in tomllib.loads(part.read_text()).items()
        for row in rows
    ]


MUTATIONS = _read()
