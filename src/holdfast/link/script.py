"""Lua scripts as values: a name, a source and its digest. Sending them is the link's business."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.link.translate import Arg


@dataclass(frozen=True)
class Script:
    """A Lua script for ``Link.run``.

    Args:
        name: what it is called in logs and in ``link/scripts/``.
        source: the Lua text.
    """

    name: str
    source: str = field(repr=False)
    sha: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Redis names scripts by SHA-1 (EVALSHA); nothing here relies on it for security.
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)

    @staticmethod
    def load(name: str) -> Script:
        """Return the script in ``link/scripts/<name>.lua`` (read once per process).

        Raises:
            FileNotFoundError: there is none of that name.
        """
        return _load(name)

    def evalsha(self, keys: Sequence[str | bytes], args: Sequence[Arg]) -> tuple[Arg, ...]:
        """The short command; a server that has not seen the script answers ``NOSCRIPT``."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def eval(self, keys: Sequence[str | bytes], args: Sequence[Arg]) -> tuple[Arg, ...]:
        """The long command, which also teaches the script to the server."""
        return ("EVAL", self.source, len(keys), *keys, *args)


@cache
def _load(name: str) -> Script:
    file = resources.files("holdfast.link") / "scripts" / f"{name}.lua"
    return Script(name, file.read_text(encoding="utf-8"))
